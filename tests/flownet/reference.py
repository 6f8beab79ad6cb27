"""FlowNet2 once more, straight from its description: functions over a state dict, one displacement at a time.

Shares no line with the package. Convolutions take kernel and stride from the text, weights by key.
"""

import torch
import torch.nn.functional as F


class Weights:
    def __init__(self, state, prefix=""):
        self.state, self.prefix = state, prefix

    def sub(self, name):
        return Weights(self.state, f"{self.prefix}{name}.")

    def parts(self, name):
        return self.state[f"{self.prefix}{name}.weight"], self.state.get(f"{self.prefix}{name}.bias")

    def conv(self, name, x, stride=1):
        weight, bias = self.parts(f"{name}.0")
        return F.leaky_relu(F.conv2d(x, weight, bias, stride, (weight.shape[-1] - 1) // 2), 0.1)

    def inter(self, name, x):
        return F.conv2d(x, *self.parts(f"{name}.0"), 1, 1)

    def predict(self, name, x):
        return F.conv2d(x, *self.parts(name), 1, 1)

    def deconv(self, name, x):
        return F.leaky_relu(F.conv_transpose2d(x, *self.parts(f"{name}.0"), 2, 1), 0.1)

    def up(self, name, x):
        return F.conv_transpose2d(x, *self.parts(name), 2, 1)


def warp(image, flow):
    """Border-padded bilinear sampling; in float64 the normalised coordinates cost no precision."""
    height, width = image.shape[2:]
    x = torch.arange(width, dtype=torch.float64) + flow[:, 0].double()
    y = torch.arange(height, dtype=torch.float64)[:, None] + flow[:, 1].double()
    grid = torch.stack((x / (width - 1), y / (height - 1)), -1) * 2 - 1
    out = F.grid_sample(image.double(), grid, "bilinear", "border", align_corners=True)
    return out.to(image.dtype)


def correlate(a, b):
    height, width = a.shape[2:]
    padded = F.pad(b, (20, 20, 20, 20))
    shifts = [(dy, dx) for dy in range(0, 41, 2) for dx in range(0, 41, 2)]
    return torch.stack([(a * padded[:, :, y : y + height, x : x + width]).mean(1) for y, x in shifts], 1)


def length(x):
    return x.square().sum(1, keepdim=True).sqrt()


def pyramid(w, conv2, conv3, smooth=False):
    conv4 = w.conv("conv4_1", w.conv("conv4", conv3, 2))
    conv5 = w.conv("conv5_1", w.conv("conv5", conv4, 2))
    conv6 = w.conv("conv6_1", w.conv("conv6", conv5, 2))

    def predict(level, x):
        return w.predict(f"predict_flow{level}", w.inter(f"inter_conv{level}", x) if smooth else x)

    flow6 = w.predict("predict_flow6", conv6)
    cat5 = torch.cat((conv5, w.deconv("deconv5", conv6), w.up("upsampled_flow6_to_5", flow6)), 1)
    cat4 = torch.cat((conv4, w.deconv("deconv4", cat5), w.up("upsampled_flow5_to_4", predict(5, cat5))), 1)
    cat3 = torch.cat((conv3, w.deconv("deconv3", cat4), w.up("upsampled_flow4_to_3", predict(4, cat4))), 1)
    cat2 = torch.cat((conv2, w.deconv("deconv2", cat3), w.up("upsampled_flow3_to_2", predict(3, cat3))), 1)
    return predict(2, cat2)


def flownet_c(w, x1, x2):
    conv2 = w.conv("conv2", w.conv("conv1", x1, 2), 2)
    conv3 = w.conv("conv3", conv2, 2)
    other = w.conv("conv3", w.conv("conv2", w.conv("conv1", x2, 2), 2), 2)
    both = torch.cat((w.conv("conv_redir", conv3), F.leaky_relu(correlate(conv3, other), 0.1)), 1)
    return pyramid(w, conv2, w.conv("conv3_1", both))


def flownet_s(w, x):
    conv2 = w.conv("conv2", w.conv("conv1", x, 2), 2)
    return pyramid(w, conv2, w.conv("conv3_1", w.conv("conv3", conv2, 2)))


def flownet_sd(w, x):
    conv1 = w.conv("conv1_1", w.conv("conv1", w.conv("conv0", x), 2))
    conv2 = w.conv("conv2_1", w.conv("conv2", conv1, 2))
    return pyramid(w, conv2, w.conv("conv3_1", w.conv("conv3", conv2, 2)), smooth=True)


def fusion(w, x):
    conv0 = w.conv("conv0", x)
    conv1 = w.conv("conv1_1", w.conv("conv1", conv0, 2))
    conv2 = w.conv("conv2_1", w.conv("conv2", conv1, 2))
    flow2 = w.predict("predict_flow2", conv2)
    cat1 = torch.cat((conv1, w.deconv("deconv1", conv2), w.up("upsampled_flow2_to_1", flow2)), 1)
    flow1 = w.predict("predict_flow1", w.inter("inter_conv1", cat1))
    cat0 = torch.cat((conv0, w.deconv("deconv0", cat1), w.up("upsampled_flow1_to_0", flow1)), 1)
    return w.predict("predict_flow0", w.inter("inter_conv0", cat0))


def bilinear4(x):
    return F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)


def nearest4(x):
    return x.repeat_interleave(4, 2).repeat_interleave(4, 3)


def refine(w, x1, x2, flow):
    warped = warp(x2, flow)
    return flownet_s(w, torch.cat((x1, x2, warped, flow / 20, length(x1 - warped)), 1)) * 20


def normalise(img1, img2):
    both = torch.cat((img1.flatten(2), img2.flatten(2)), 2)
    mean = both.mean(2)[:, :, None, None]
    return (img1 - mean) / 255, (img2 - mean) / 255


def reference_flow(variant, state, img1, img2):
    """Flow of any variant for sides divisible by 64."""
    w = Weights(state)
    x1, x2 = normalise(img1, img2)
    if variant == "flownet2-c":
        return bilinear4(flownet_c(w, x1, x2) * 20)
    if variant == "flownet2-s":
        return bilinear4(flownet_s(w, torch.cat((x1, x2), 1)) * 20)
    if variant == "flownet2-sd":
        return bilinear4(flownet_sd(w, torch.cat((x1, x2), 1)) * 20)
    flow = refine(w.sub("flownets_1"), x1, x2, bilinear4(flownet_c(w.sub("flownetc"), x1, x2) * 20))
    if variant == "flownet2-cs":
        return bilinear4(flow)
    flow = nearest4(refine(w.sub("flownets_2"), x1, x2, bilinear4(flow)))
    if variant == "flownet2-css":
        return flow
    small = nearest4(flownet_sd(w.sub("flownets_d"), torch.cat((x1, x2), 1)) / 20)
    errors = [length(x1 - warp(x2, f)) for f in (small, flow)]
    return fusion(w.sub("flownetfusion"), torch.cat((x1, small, flow, length(small), length(flow), *errors), 1))
