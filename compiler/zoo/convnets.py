"""Convolutional networks, as torchvision builds and exports them (BatchNormalization nodes kept)."""

from __future__ import annotations

from compiler.graph import Graph
from compiler.zoo.net import Net


def _image(net: Net, batch: int) -> str:
    return net.input("image", (batch, 3, 224, 224))


def _basic_block(net: Net, x: str, name: str, maps: int, stride: int, project: bool) -> str:
    y = net.op(f"{name}.relu1", "Relu", net.conv_bn(x, f"{name}.conv1", f"{name}.bn1", maps, 3, stride))
    y = net.conv_bn(y, f"{name}.conv2", f"{name}.bn2", maps, 3)
    return _join(net, x, y, name, maps, stride, project)


def _bottleneck(net: Net, x: str, name: str, maps: int, stride: int, project: bool) -> str:
    y = net.op(f"{name}.relu1", "Relu", net.conv_bn(x, f"{name}.conv1", f"{name}.bn1", maps, 1))
    # ResNet v1.5: the stride sits in the 3x3 convolution.
    y = net.op(f"{name}.relu2", "Relu", net.conv_bn(y, f"{name}.conv2", f"{name}.bn2", maps, 3, stride))
    y = net.conv_bn(y, f"{name}.conv3", f"{name}.bn3", 4 * maps, 1)
    return _join(net, x, y, name, 4 * maps, stride, project)


def _join(net: Net, x: str, y: str, name: str, maps: int, stride: int, project: bool) -> str:
    if project:
        x = net.conv_bn(x, f"{name}.downsample.0", f"{name}.downsample.1", maps, 1, stride)
    return net.op(f"{name}.relu", "Relu", net.op(f"{name}.add", "Add", y, x))


def _resnet(name: str, batch: int, depths: tuple[int, ...], wide: bool) -> Graph:
    net = Net(name)
    x = net.op("relu", "Relu", net.conv_bn(_image(net, batch), "conv1", "bn1", 64, 7, 2))
    x = net.pool(x, "maxpool", "MaxPool", 3, 2, 1)
    block = _bottleneck if wide else _basic_block
    for stage, depth in enumerate(depths):
        for index in range(depth):
            stride = 2 if stage and not index else 1
            project = index == 0 and (wide or stage > 0)
            x = block(net, x, f"layer{stage + 1}.{index}", 64 << stage, stride, project)
    return net.finish(_classifier(net, x))


def _classifier(net: Net, x: str, name: str = "fc") -> str:
    pooled = net.op("avgpool", "GlobalAveragePool", x)
    return net.gemm(net.op("flatten", "Flatten", pooled, axis=1), name, 1000)


def resnet18(batch: int) -> Graph:
    """ResNet-18 (He et al. 2016): 1.82 GMAC an image, 11.7 M parameters."""
    return _resnet("resnet18", batch, (2, 2, 2, 2), wide=False)


def resnet50(batch: int) -> Graph:
    """ResNet-50 v1.5: 4.09 GMAC an image, 25.6 M parameters."""
    return _resnet("resnet50", batch, (3, 4, 6, 3), wide=True)


# Expansion, maps, repeats, first stride: Sandler et al. 2018, table 2.
_MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenetv2(batch: int) -> Graph:
    """MobileNetV2 (Sandler et al. 2018): 0.300 GMAC an image, 3.5 M parameters."""
    net = Net("mobilenetv2")

    def relu6(x: str, name: str) -> str:
        return net.op(name, "Clip", x, min=0.0, max=6.0)

    x = relu6(net.conv_bn(_image(net, batch), "features.0.0", "features.0.1", 32, 3, 2), "features.0.2")
    index = 1
    for expansion, maps, repeats, first in _MOBILENET_V2:
        for repeat in range(repeats):
            name, stride, depth = f"features.{index}", first if repeat == 0 else 1, net.shape(x)[1]
            y = x
            if expansion > 1:
                y = relu6(
                    net.conv_bn(y, f"{name}.expand", f"{name}.expand.bn", expansion * depth, 1), f"{name}.expand.relu"
                )
            wide = net.shape(y)[1]
            y = net.conv_bn(y, f"{name}.depthwise", f"{name}.depthwise.bn", wide, 3, stride, group=wide)
            y = net.conv_bn(relu6(y, f"{name}.depthwise.relu"), f"{name}.project", f"{name}.project.bn", maps, 1)
            x = net.op(f"{name}.add", "Add", x, y) if stride == 1 and depth == maps else y
            index += 1
    x = relu6(net.conv_bn(x, "features.18.0", "features.18.1", 1280, 1), "features.18.2")
    return net.finish(_classifier(net, x, "classifier"))


def _fully_connected(net: Net, x: str, widths: tuple[int, ...]) -> str:
    x = net.op("flatten", "Flatten", x, axis=1)
    for index, width in enumerate(widths):
        x = net.gemm(x, f"classifier.{index}", width)
        x = net.op(f"classifier.{index}.relu", "Relu", x) if index < len(widths) - 1 else x
    return x


def vgg16(batch: int) -> Graph:
    """VGG-16 (Simonyan and Zisserman 2015), configuration D: 15.47 GMAC an image, 138 M parameters."""
    net, index = Net("vgg16"), 0
    x = _image(net, batch)
    for stage, (depth, maps) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))):
        for _ in range(depth):
            x = net.op(f"relu{index}", "Relu", net.conv(x, f"conv{index}", maps, 3, bias=True))
            index += 1
        x = net.pool(x, f"pool{stage}", "MaxPool", 2, 2)
    return net.finish(_fully_connected(net, x, (4096, 4096, 1000)))


def alexnet(batch: int) -> Graph:
    """AlexNet as in torchvision (Krizhevsky 2014, one tower): 0.714 GMAC an image, 61 M parameters."""
    net = Net("alexnet")
    x = net.op("relu0", "Relu", net.conv(_image(net, batch), "conv0", 64, 11, 4, 2, bias=True))
    x = net.pool(x, "pool0", "MaxPool", 3, 2)
    x = net.op("relu1", "Relu", net.conv(x, "conv1", 192, 5, bias=True))
    x = net.pool(x, "pool1", "MaxPool", 3, 2)
    for index, maps in ((2, 384), (3, 256), (4, 256)):
        x = net.op(f"relu{index}", "Relu", net.conv(x, f"conv{index}", maps, 3, bias=True))
    x = net.pool(x, "pool2", "MaxPool", 3, 2)
    return net.finish(_fully_connected(net, x, (4096, 4096, 1000)))
