"""The engine of threads: cycles counted by hand, agreement with the slow executor, what is conserved, what is refused.

Every `run` compares engine and twin in all counters. The machine of the fixture has one scheduler; fma and alu take a
warp every 2 cycles and 4 until the result, sfu every 8, the scalar and control pipes every cycle.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simt_engine_fixture import BACK, HIT, WAY, both, differences, launch, machine, memory, program, run, state
from simt_engine_programs import kernels, machine_of, settings_of_machines

from isa.errors import ConfigError, DeadlockError, SimulationError
from npusim.engine.simt import run as engine_run
from npusim.engine.simt.run import run_simt
from npusim.functional import simt as functional
from npusim.functional.simt_run import P_LEFT
from npusim.record_simt import WARP_CAUSES
from npusim.stepper import simt as stepper
from npusim.stepper.simt import step_simt

# Values overflow, and divide by zero, which plain Python says.
pytestmark = [pytest.mark.kernels, pytest.mark.filterwarnings("ignore::RuntimeWarning")]
MISS = HIT + WAY + 1 + BACK  # of a sector: the way out, a cycle of the ideal memory, the way back
LINE = 3  # cycles more until the last of a line's 128 bytes is through the port of 32
LOAD = "vid v0, 0\nishl v0, v0, 2\n"  # at 0 and 4; what uses v0 issues at 8


# States of warps, by hand


def test_an_empty_kernel_takes_a_cycle() -> None:
    found = run("exit", machine())
    assert (found.end, state(found, "selected"), found.stalls.sum()) == (1, 1, 1)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_dependent_instructions_wait_for_the_latency(count: int) -> None:
    found = run("ffma v0, v0, v0, v0\n" * count + "exit", machine())
    assert found.end == 4 * (count - 1) + 2  # exit follows the last one
    assert state(found, "dependency") == 3 * (count - 1) and state(found, "pipe_throttle") == 0


@pytest.mark.parametrize("count", [1, 2, 5])
def test_independent_instructions_wait_for_the_pipe(count: int) -> None:
    found = run("\n".join(f"ffma v{i}, v9, v9, v9" for i in range(count)) + "\nexit", machine())
    assert found.end == 2 * (count - 1) + 2
    assert state(found, "pipe_throttle") == count - 1 and state(found, "dependency") == 0
    assert found.pipe_busy.sum() == 2 * count + 1


def test_the_throttle_of_the_special_function_unit() -> None:
    found = run("frcp v0, v9\nfrcp v1, v9\nexit", machine())
    assert (found.end, state(found, "pipe_throttle", 1), state(found, "pipe_throttle")) == (10, 7, 7)


def test_two_warps_hide_half_of_each_others_latency() -> None:
    found = run("ffma v0, v0, v0, v0\n" * 4 + "exit", machine(), block=64)
    assert found.end == 2 + 12 + 2  # at 0, 4, 8, 12 and two later; the exit of each follows at once
    assert state(found, "pipe_throttle") == 1 and state(found, "not_selected") == 1


def test_scalar_instructions_have_their_own_pipe() -> None:
    found = run("li r8, 1\nadd r9, r8, r8\nexit", machine())
    assert (found.end, state(found, "dependency", 1)) == (6, 3)


def test_a_load_that_misses() -> None:
    found = run(LOAD + "ldg.32 v1, a, v0\niadd v1, v1, 1\nexit", machine())
    used = 8 + MISS + LINE
    assert (found.end, state(found, "long_scoreboard", 3), state(found, "long_scoreboard")) == (
        used + 2, used - 9, used - 9)  # fmt: skip


def test_a_load_that_hits() -> None:
    found = run(LOAD + "ldg.32 v1, a, v0\niadd v1, v1, 1\nldg.32 v1, a, v0\niadd v1, v1, 1\nexit", machine())
    again = 8 + MISS + LINE + 4
    assert found.end == again + HIT + 2
    assert state(found, "long_scoreboard", 5) == HIT - 1
    assert found.counters["l1_hit_sectors"] == found.counters["l1_miss_sectors"] == 4


def test_a_sector_that_is_under_way_is_not_asked_for_again() -> None:
    found = run(LOAD + "ldg.32 v1, a, v0\nldg.32 v2, a, v0\niadd v1, v1, v2\nexit", machine())
    assert found.end == 8 + MISS + LINE + 2
    assert (found.counters["l1_merged_sectors"], found.counters["requests"]) == (4, 1)


def test_a_full_queue_throttles() -> None:
    """Loads of a line take the unit 2 cycles: taken at 8, 10, 12, 14; one waits in the queue, the next outside."""
    body = LOAD + "\n".join(f"ldg.32 v{n}, a, v0" for n in range(1, 5)) + "\nexit"
    found = run(body, machine("core.scheduling.queue_depth=1"))
    assert [state(found, "lsu_throttle", pc) for pc in range(2, 6)] == [0, 0, 1, 1]
    assert state(run(body, machine("core.scheduling.queue_depth=2")), "lsu_throttle") == 0


def test_shared_memory_is_a_short_scoreboard() -> None:
    found = run(LOAD + "lds.32 v1, v0\niadd v1, v1, 1\nexit", machine(), shared=128)
    assert (found.end, state(found, "short_scoreboard", 3)) == (8 + 10 + 2, 9)
    found = run(LOAD + "ishl v0, v0, 1\nlds.32 v1, v0\niadd v1, v1, 1\nexit", machine(), shared=256)
    assert (found.end, state(found, "short_scoreboard", 4)) == (12 + 11 + 2, 10)  # two ways


def test_shuffles_are_a_short_scoreboard() -> None:
    found = run("shfl.up v1, v0, 1\niadd v1, v1, 1\nexit", machine())
    assert (found.end, state(found, "short_scoreboard", 1)) == (6, 3)


def test_a_barrier_holds_until_the_last_warp_and_then_branches() -> None:
    found = run("bar 0\nexit", machine("core.warps.warp_cycles=10"), block=64)
    assert state(found, "launch", 0) == 10
    assert state(found, "barrier", 0) == 10  # of warp 0, in cycles 1 to 10
    assert state(found, "branch", 1) == 2 * 3  # 11 to 13
    assert (found.end, state(found, "not_selected", 1)) == (16, 1)


def test_a_warp_alone_passes_its_barrier_at_once() -> None:
    found = run("bar 0\nexit", machine())
    assert (found.end, state(found, "barrier"), state(found, "branch", 1)) == (5, 0, 3)


def test_warps_that_have_ended_are_not_waited_for() -> None:
    found = run("vid v0, 2\nisetp.eq p0, v0, 1\n@p0 exit\nbar 0\nexit", machine(), block=64)
    assert found.issues[3, 0] == 1 and found.issues[4, 0] == 1


def test_membar_waits_for_the_answer() -> None:
    found = run("stg.32 a, _, 0, v0\nmembar\nexit", machine())
    assert (found.end, state(found, "membar", 1)) == (MISS + 1, MISS - 2)
    assert state(run("membar\nexit", machine()), "membar") == 0


def test_membar_waits_for_what_is_still_in_the_queue() -> None:
    """Four stores of a line each take the port 4 cycles; the last one leaves at 8 + 12."""
    body = LOAD + "stg.32 a, v0, v0\n" * 4 + "membar\nexit"
    found = run(body, machine("core.scheduling.queue_depth=8"))
    assert found.end == 8 + 12 + MISS + 1


def test_branches_cost_their_cycles_taken_or_not() -> None:
    assert run("bra on\non:\nexit", machine()).end == 5
    found = run("isetp.lt p0, v0, -1\n@p0 bra on\niadd v1, v1, 1\non:\nexit", machine())
    assert (found.end, state(found, "branch", 2), found.issues[2, 0]) == (4 + 4 + 2, 3, 1)


def test_branch_cycles_are_counted_where_the_warp_goes_on() -> None:
    found = run("vid v0, 0\nfrcp v1, v0\nbra on\non:\niadd v1, v1, 1\nexit", machine())
    assert state(found, "branch", 3) == 3  # bra at 5
    assert state(found, "dependency", 3) == 4 + 16 - 9


def test_lanes_that_part_execute_both_ways() -> None:
    body = "vid v0, 0\nisetp.lt p0, v0, 7\n@p0 bra one\niadd v1, v1, 1\nbra two\none:\niadd v1, v1, 2\ntwo:\nexit"
    found = run(body, machine())
    assert found.issues[3:7].tolist() == [[1, 25], [1, 25], [1, 7], [1, 32]]
    assert found.end == 12 + 4 + 1 + 4 + 1  # the seven lanes go first, at 12; v1 of the others waits for it


def test_jumps_back_are_branches_and_the_way_out_is_not() -> None:
    found = run("li r8, 3\nloop r8, done\nnop\nendl\ndone:\nexit", machine())
    assert found.issues[:5, 0].tolist() == [1, 1, 3, 3, 1]
    assert state(found, "branch", 2) == 2 * 3
    assert found.end == 4 + 1 + 3 * 2 + 2 * 3 + 1


def test_a_guard_without_lanes_costs_the_pipe_and_nothing_else() -> None:
    found = run("isetp.lt p0, v0, -1\n@p0 ldg.32 v1, a, v0\niadd v1, v1, 1\nexit", machine())
    assert (found.end, found.counters["pieces"], found.issues[1].tolist()) == (7, 0, [1, 0])


def test_an_exit_of_no_lane_is_a_branch() -> None:
    assert run("isetp.lt p0, v0, -1\n@p0 exit\nexit", machine()).end == 4 + 4 + 1


def test_schedulers() -> None:
    """Greedy lets the first warp finish; loose round-robin lets them take turns."""
    body = "nop\n" * 4 + "exit"
    greedy = run(body, machine("core.scheduling.policy=gto"), block=64)
    turns = run(body, machine("core.scheduling.policy=lrr"), block=64)
    assert greedy.end == turns.end == 10
    assert [state(greedy, "not_selected", pc) for pc in range(5)] == [5, 0, 0, 0, 0]
    assert [state(turns, "not_selected", pc) for pc in range(5)] == [1, 2, 2, 2, 2]


def test_blocks_take_the_place_of_those_that_have_ended() -> None:
    chip = machine("core.warps.blocks=4", "core.warps.block_cycles=7")
    assert run("exit", chip, grid=4).end == 4
    assert run("exit", chip, grid=5).end == 8  # the slot of the first one, which ended at 0
    assert run("exit", machine("core.warps.blocks=4", "core.warps.block_cycles=0"), grid=5).end == 5


def test_launches_follow_each_other() -> None:
    made, chip = program("exit", machine("launch_cycles=9"), launches=3), machine("launch_cycles=9")
    record, _ = both(made, chip)
    assert [(found.start, found.end) for found in record.launches] == [(0, 10), (10, 20), (20, 30)]


def test_copies_past_the_registers() -> None:
    body = LOAD + "cpa.32 v0, a, v0\ncpa.commit\ncpa.wait 0\nexit"
    found = run(body, machine(), shared=128)
    there = 8 + MISS + LINE
    assert (found.end, state(found, "long_scoreboard", 4)) == (there + 1, there - 11)
    assert run(body.replace("wait 0", "wait 1"), machine(), shared=128).counters["pieces"] == 1


def test_a_wait_for_copies_leaves_younger_groups_alone() -> None:
    chip = machine("memory.ideal_bytes_per_cycle=4")
    body = LOAD + "cpa.32 v0, a, v0\ncpa.commit\ncpa.32 v0, b, v0\ncpa.commit\ncpa.wait {}\nbar 0\nexit"
    one, none = (state(run(body.format(n), chip, shared=128), "long_scoreboard", 6) for n in (1, 0))
    assert none - one == 32  # cycles of a line at 4 bytes a cycle


def test_no_more_than_fifteen_groups_are_under_way() -> None:
    chip = machine("core.scheduling.queue_depth=30", "memory.ideal_bytes_per_cycle=4")
    body = LOAD + "\n".join(f"cpa.32 v0, a, v0, {128 * n}\ncpa.commit" for n in range(18)) + "\ncpa.wait 14\nexit"
    found = run(body, chip, shared=128)
    assert state(found, "lsu_throttle", 2 + 2 * 14 + 1) == 0 < state(found, "lsu_throttle", 2 + 2 * 15 + 1)


def test_no_more_accesses_than_rows() -> None:
    chip = machine("core.warps.schedulers=2", "core.scheduling.queue_depth=256", "core.l1.mshrs=128",
                   "memory.ideal_bytes_per_cycle=4")  # fmt: skip
    body = LOAD + "\n".join(f"ldg.32 v{n + 4}, a, v0, {128 * n}" for n in range(14)) + "\niadd v1, v4, v5\nexit"
    assert state(run(body, chip, block=512), "lsu_throttle") > 0


# Memory


@pytest.mark.parametrize(("shift", "sectors", "pieces"), [(0, 1, 1), (2, 4, 1), (3, 8, 2), (4, 16, 4), (5, 32, 8),
                                                          (7, 32, 32)])  # fmt: skip
def test_sectors_of_a_strided_load(shift: int, sectors: int, pieces: int) -> None:
    body = f"vid v0, 0\nishl v0, v0, {shift}\nldg.32 v1, a, v0\nexit" if shift else "ldg.32 v1, a\nexit"
    found = run(body, machine())
    assert (found.counters["load_sectors"], found.counters["pieces"]) == (sectors, pieces)
    assert found.counters["read_bytes"] == 32 * sectors


@pytest.mark.parametrize("what", ["ldg.32 v1, a, v0", "stg.32 a, v0, v1", "atomg.add _, a, v0, 0, v1"])
def test_only_sectors_that_lanes_touch_are_moved(what: str) -> None:
    """Every second sector: two requests a line."""
    found = run(f"vid v0, 0\nishl v0, v0, 6\n{what}\nexit", machine())
    moved = found.counters["read_bytes"] + found.counters["write_bytes"]
    assert (moved, found.counters["requests"], found.counters["pieces"]) == (32 * 32, 32, 16)


@pytest.mark.parametrize(("words", "ways"), [(1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (32, 32), (33, 1), (0, 1)])
def test_ways_of_shared_memory(words: int, ways: int) -> None:
    found = run(f"vid v0, 0\nimul v0, v0, {4 * words}\nlds.32 v1, v0\nexit", machine(), shared=8192)
    assert found.counters["shared_cycles"] == ways


@pytest.mark.parametrize(("size", "cycles"), [("u8", 1), ("32", 1), ("64", 2), ("128", 4)])
def test_wide_lanes_go_in_parts(size: str, cycles: int) -> None:
    found = run(f"vid v0, 0\nimul v0, v0, {16 if size == '128' else 8 if size == '64' else 4}\nlds.{size} v4, v0\nexit",
                machine(), shared=512)  # fmt: skip
    assert found.counters["shared_cycles"] == cycles


@pytest.mark.parametrize(("name", "cycles"), [("x1", 1), ("x2", 2), ("x4", 4)])
def test_fragments_have_a_row_a_lane(name: str, cycles: int) -> None:
    found = run(f"vid v0, 0\nishl v0, v0, 4\nldsm.{name} v4, v0\nexit", machine(), shared=512)
    assert found.counters["shared_cycles"] == cycles


def test_atomics_on_one_word_follow_each_other() -> None:
    assert run("atoms.add _, v0, 0, v1\nexit", machine(), shared=16).counters["shared_cycles"] == 32
    found = run("atomg.add v1, a, v0, 0, v2\niadd v1, v1, 1\nexit", machine())
    assert (found.end, found.counters["atomic_lanes"]) == (MISS + 1 + 2, 32)  # the cycle after the answer


def test_few_misses_and_few_credits_stop_the_unit() -> None:
    body = "vid v0, 0\nishl v0, v0, 7\nldg.32 v1, a, v0\nstg.32 a, v0, v0\nexit"
    few = run(body, machine("core.l1.mshrs=2", "core.load_store.stores=4"), block=32)
    assert few.counters["unit_stalls"] > 0 and few.end > run(body, machine()).end


def test_a_core_is_not_held_up_by_the_requests_of_others() -> None:
    """Atomics that give the old value back once took rows that all cores share and no credit."""
    body = "vid v0, 1\nimul v0, v0, 128\niand v0, v0, 4095\n" + "atomg.add v1, a, v0, 0, v2\n" * 3 + "exit"
    chip = machine("cores=2", "core.load_store.stores=4", "core.l1.mshrs=1")
    assert run(body, chip, block=64, grid=4).counters["atomic_lanes"] == 4 * 64 * 3


def test_answers_to_a_warp_that_has_ended_do_not_reach_its_successor() -> None:
    """The first blocks leave loads, stores and copies behind; the next ones count their own."""
    body = LOAD + ("ldg.32 v1, a, v0\nstg.32 b, v0, v0\ncpa.32 v0, c, v0\nmembar\ncpa.wait 0\nexit").replace(
        "membar\n", "isetp.eq p0, v9, 0\nstg.32 c, v0, v0\n")  # fmt: skip
    ends = run(body, machine("core.warps.block_cycles=1", "core.warps.blocks=1"), grid=4, shared=128)
    assert ends.counters["store_sectors"] == 4 * 8
    fenced = LOAD + "csr r8, 0\nstg.32 b, v0, v0\nbz r8, over\nmembar\nover:\nexit"
    found = run(fenced, machine("core.warps.block_cycles=1", "core.warps.blocks=1"), grid=4)
    assert state(found, "membar") >= 3 * (MISS - 5)


def test_more_store_credits_than_a_line_has_sectors() -> None:
    chip = machine("core.load_store.stores=3")
    with pytest.raises(ConfigError, match=r"core\.load_store\.stores 3 is less than the sectors of a line"):
        run_simt(program("exit", chip), chip, memory())


def test_lane_registers_are_0_in_every_block() -> None:
    body = LOAD + "csr r8, 0\nimad v1, v0, 1, v1\nstg.32 a, v0, v1\nexit"
    chip = machine("core.warps.blocks=1")
    _, after = both(program(body, chip, grid=3), chip)
    assert after.view(np.uint32)[1024:1056].tolist() == list(range(0, 128, 4))


def test_warps_of_64_lanes_and_64_banks() -> None:
    chip = machine("core.warps.size=64", "core.shared.banks=64")
    body = "vid v0, 1\nishl v0, v0, 2\nsts.32 v0, 0, v0\nldg.32 v2, a, v0\nisetp.lt p0, v0, 80\n@!p0 exit\n"
    found = run(body + "vote.any p1, p0\nexit", chip, block=128, shared=512)
    assert found.counters["shared_cycles"] == 2 and found.counters["load_sectors"] == 16


# Random kernels on random machines

LAUNCHES = st.tuples(st.sampled_from([1, 2, 5]), st.sampled_from([32, 50, 64, 128]), st.integers(1, 2))
slow = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@slow
@given(kernels(), settings_of_machines(), LAUNCHES)
def test_engine_and_twin_agree(text: str, changes: tuple[str, ...], how: tuple[int, int, int]) -> None:
    chip = machine_of(changes)
    made = launch(text, chip, how[0], how[1], launches=how[2])
    try:
        theirs = memory()
        truth = step_simt(made, chip, theirs)
    except SimulationError:  # lanes have left, and the whole warp is wanted
        with pytest.raises(SimulationError):
            run_simt(made, chip, memory())
        return
    ours = memory()
    record = run_simt(made, chip, ours)
    assert differences(record, truth) == ""
    assert (ours == theirs).all()
    for found in record.launches:
        resident = found.stalls.sum()
        assert resident == truth.launches[record.launches.index(found)].stalls.sum()
        assert found.issues[:, 0].sum() == found.issued.sum() == state(found, "selected")
        assert found.pipe_busy.max() <= found.cycles + 16  # the last instruction may still occupy it


@slow
@given(kernels(tame=True), settings_of_machines(), LAUNCHES)
def test_values_and_issues_are_those_of_the_functional_run(
    text: str, changes: tuple[str, ...], how: tuple[int, int, int]
) -> None:
    chip = machine_of(changes)
    made = launch(text, chip, how[0], how[1], launches=how[2])
    ours, theirs, count = memory(), memory(), _Count()
    record = run_simt(made, chip, ours)
    with count:
        functional.run_threads(made, chip, theirs)
    assert (ours == theirs).all()
    barriers = _barriers(text)
    issued = sum(int(found.issues[:, 0].sum()) for found in record.launches)
    assert issued - sum(int(found.issues[barriers, 0].sum()) for found in record.launches) == count.executed
    for found in record.launches:
        counters = found.counters
        asked = counters["l1_hit_sectors"] + counters["l1_miss_sectors"] + counters["l1_merged_sectors"]
        assert asked == counters["load_sectors"]
        assert counters["read_bytes"] == 32 * counters["l1_miss_sectors"]
        assert counters["write_bytes"] == 32 * counters["store_sectors"]


def _barriers(text: str) -> list[int]:
    """Addresses of barriers, which the functional run does not count as instructions."""
    lines = [line.strip() for line in text.split("\n")[2:]]
    code = [line for line in lines if line and not line.endswith(":") and line != ".end"]
    return [n for n, line in enumerate(code) if line.startswith("bar ")]


class _Count:
    """Counts what the functional run executes."""

    executed = 0

    def __enter__(self) -> None:
        self.plain = functional._Launch._run_slice

        def counted(launch: Any) -> int:
            status = self.plain(launch)
            self.executed += functional.SLICE - int(launch.progress[P_LEFT])
            return status

        functional._Launch._run_slice = counted  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        functional._Launch._run_slice = self.plain  # type: ignore[method-assign]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(kernels(), settings_of_machines(), LAUNCHES, st.sampled_from([1, 3]))
def test_windows_change_nothing(text: str, changes: tuple[str, ...], how: tuple[int, int, int], window: int) -> None:
    chip = machine_of(changes)
    made = launch(text, chip, how[0], how[1], launches=how[2])
    long, short = memory(), memory()
    try:
        record = run_simt(made, chip, long)
    except SimulationError:
        return
    assert differences(run_simt(made, chip, short, window_cycles=window), record) == ""
    assert (long == short).all()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(kernels(tame=True), settings_of_machines(), LAUNCHES)
def test_time_without_values_is_the_same(text: str, changes: tuple[str, ...], how: tuple[int, int, int]) -> None:
    chip = machine_of(changes)
    made = launch(text, chip, how[0], how[1], launches=how[2])
    try:
        record = run_simt(made, chip)
    except SimulationError as error:
        assert "cannot be told without values" in str(error)
        return
    assert differences(record, run_simt(made, chip, memory())) == ""


# What is refused

BLOCK_OF_TWO = {"block": 64, "shared": 128}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (LOAD + "ishl v0, v0, 20\nldg.32 v1, a, v0\nexit", "block 0, warp 0, instruction 3 `ldg.32.*outside of memory"),
        ("vid v0, 1\nstg.32 a, v0, v0\nexit", "block 0, warp 0, instruction 1 `stg.32.*no multiple"),
        ("vid v0, 1\nlds.32 v1, v0, 128\nexit", "block 0, warp 0, instruction 1 `lds.32.*outside of memory"),
        ("vid v0, 2\nishl v0, v0, 7\nlds.32 v1, v0\nexit", "block 0, warp 1, instruction 2 `lds.32.*outside"),
        ("vid v0, 0\nisetp.lt p0, v0, 3\n@p0 bra on\nbar 0\non:\nexit", "warp 0, instruction 3 `bar 0`.*all lanes"),
    ],
)  # fmt: skip
def test_what_a_thread_must_not_do_is_named(body: str, words: str) -> None:
    made = program(body, machine(), **BLOCK_OF_TWO)
    with pytest.raises(SimulationError, match=words):
        run_simt(made, machine(), memory())
    with pytest.raises(SimulationError):
        step_simt(made, machine(), memory())


def test_shared_memory_that_the_kernel_does_not_have() -> None:
    with pytest.raises(SimulationError, match="outside of memory"):
        run_simt(program("lds.32 v1, v0\nexit", machine()), machine(), memory())


@pytest.mark.parametrize("other", ["bar 1", "again:\nbar 1\nbra again"])
def test_warps_at_different_barriers_are_a_deadlock(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_run, "PATIENCE", 500)
    monkeypatch.setattr(stepper, "PATIENCE", 500)
    body = f"vid v0, 2\nisetp.eq p0, v0, 1\n@p0 bra there\nbar 0\nexit\nthere:\n{other}\nexit"
    made = program(body, machine(), **BLOCK_OF_TWO)
    words = "block 0 warp 0 is at the barrier, instruction 3 `bar 0`; block 0 warp 1 is at the barrier, instruction 5"
    with pytest.raises(DeadlockError, match=words):
        run_simt(made, machine(), memory())
    with pytest.raises(DeadlockError):
        step_simt(made, machine(), memory())


def test_states_are_as_many_as_resident_warp_cycles() -> None:
    """Two warps, resident from the start to their exits."""
    found = run("vid v0, 2\nisetp.eq p0, v0, 1\n@p0 exit\n" + "nop\n" * 9 + "exit", machine(), block=64)
    assert found.stalls.shape[1] == len(WARP_CAUSES)
    # vid at 0 and 2, isetp at 4 and 6, exit at 8 and 10 (with which warp 1 ends); warp 0 goes on at 12.
    assert (found.end, found.stalls.sum()) == (22, 22 + 11)
