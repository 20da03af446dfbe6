"""What single units do: scalars, warps, and the array PE by PE, against which closed forms and engine are tested."""
