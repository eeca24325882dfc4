"""The sixty architectures: what builds each, with random weights, and what it reads.

A reference is one that a recipe may have. Weights are random, so nothing is fetched; sizes of transformers' models are the
small ones that devices run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final

Reads = Literal["image", "tokens", "spectrum", "sound", "sequence", "recording"]


@final
@dataclass(frozen=True, kw_only=True)
class Network:
    """A network: its factory, and what it reads.

    Attributes:
        side: pixels of an image's height and width; tokens of a text.
        vocabulary: ids that a text may have.
    """

    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    reads: Reads = "image"
    side: int = 224
    vocabulary: int = 0


def _image(factory: str, side: int = 224, **arguments: Any) -> Network:
    return Network(factory=factory, arguments=arguments, side=side)


def _text(factory: str, **arguments: Any) -> Network:
    return Network(factory=factory, arguments=arguments, reads="tokens", side=64, vocabulary=arguments["vocab_size"])


TORCHVISION = {
    "AlexNet": _image("torchvision:alexnet"),
    "ConvNeXt-tiny": _image("torchvision:convnext_tiny"),
    "DenseNet-121": _image("torchvision:densenet121"),
    "EfficientNet-B0": _image("torchvision:efficientnet_b0"),
    "EfficientNetV2-S": _image("torchvision:efficientnet_v2_s"),
    "GoogLeNet": _image("torchvision:googlenet", aux_logits=False, init_weights=False),
    "Inception-v3": _image("torchvision:inception_v3", aux_logits=False, init_weights=False),
    "MaxViT-T": _image("torchvision:maxvit_t"),
    "MNASNet-1.0": _image("torchvision:mnasnet1_0"),
    "MobileNetV2": _image("torchvision:mobilenet_v2"),
    "MobileNetV3-small": _image("torchvision:mobilenet_v3_small"),
    "MobileNetV3-large": _image("torchvision:mobilenet_v3_large"),
    "RegNetY-400MF": _image("torchvision:regnet_y_400mf"),
    "ResNet-18": _image("torchvision:resnet18"),
    "ResNet-50": _image("torchvision:resnet50"),
    "ResNeXt-50": _image("torchvision:resnext50_32x4d"),
    "ShuffleNetV2": _image("torchvision:shufflenet_v2_x1_0"),
    "SqueezeNet 1.1": _image("torchvision:squeezenet1_1"),
    "Swin-V2-T": _image("torchvision:swin_v2_t"),
    "VGG-11": _image("torchvision:vgg11_bn"),
    "ViT-B/16": _image("torchvision:vit_b_16"),
    "SSDLite": _image("tests.zoo.wholes:anchor_detector", name="ssdlite320_mobilenet_v3_large"),
    "RetinaNet": _image("tests.zoo.wholes:anchor_detector", name="retinanet_resnet50_fpn"),
    "Faster R-CNN": _image("tests.zoo.wholes:region_detector", name="fasterrcnn_mobilenet_v3_large_320_fpn"),
    "DeepLabV3": _image("torchvision:deeplabv3_mobilenet_v3_large"),
    "LR-ASPP": _image("torchvision:lraspp_mobilenet_v3_large"),
}
TIMM = {
    "MobileNetV4-small": _image("timm:mobilenetv4_conv_small"),
    "EfficientNet-lite0": _image("timm:efficientnet_lite0"),
    "RepVGG-A0": _image("timm:repvgg_a0"),
    "MobileOne-S0": _image("timm:mobileone_s0"),
    "FastViT-T8": _image("timm:fastvit_t8"),
    "EdgeNeXt-xxs": _image("timm:edgenext_xx_small", 192),
    "GhostNetV2": _image("timm:ghostnetv2_100"),
    "HardCoRe-NAS-A": _image("timm:hardcorenas_a"),
    "TinyNet-C": _image("timm:tinynet_c"),
    "LeViT-128s": _image("timm:levit_128s"),
    "EfficientFormerV2-S0": _image("timm:efficientformerv2_s0"),
    "MobileViT-xxs": _image("timm:mobilevit_xxs", 192),
    "ConvNeXtV2-atto": _image("timm:convnextv2_atto"),
    "DeiT-tiny": _image("timm:deit_tiny_patch16_224"),
    "Swin-tiny": _image("timm:swin_tiny_patch4_window7_224"),
    "ResNeSt-14": _image("timm:resnest14d"),
    "ReXNet-1.0": _image("timm:rexnet_100"),
    "ECA-ResNet-26t": _image("timm:ecaresnet26t"),
    "CSPDarknet-53": _image("timm:cspdarknet53"),
    "EfficientViT-B0": _image("timm:efficientvit_b0"),
    "RepGhost-0.5": _image("timm:repghostnet_050"),
    "StarNet-S1": _image("timm:starnet_s1"),
}
TRANSFORMERS = {
    "MobileViT-xs of transformers": _image(
        "transformers:mobilevit", 192, hidden_sizes=[96, 120, 144], neck_hidden_sizes=[16, 32, 48, 64, 80, 96, 384]
    ),
    "DeiT of transformers": _image(
        "transformers:deit", hidden_size=192, num_attention_heads=3, intermediate_size=768, num_hidden_layers=6
    ),
    "SegFormer-B0": _image("transformers:segformer", head="segments"),
    "RT-DETR-R18": _image(
        "transformers:rt_detr",
        head="boxes",
        backbone_config={
            "model_type": "rt_detr_resnet",
            "layer_type": "basic",
            "depths": [2, 2, 2, 2],
            "hidden_sizes": [64, 128, 256, 512],
            "out_features": ["stage2", "stage3", "stage4"],
        },
        encoder_in_channels=[128, 256, 512],
        decoder_layers=3,
        hidden_expansion=0.5,
    ),
    "D-FINE-N": _image(
        "transformers:d_fine",
        head="boxes",
        backbone_config={
            "model_type": "hgnet_v2",
            "out_features": ["stage3", "stage4"],
            "embedding_size": 16,
            "hidden_sizes": [64, 256, 512, 1024],
            "stem_channels": [3, 16, 16],
            "stage_in_channels": [16, 64, 256, 512],
            "stage_mid_channels": [16, 32, 64, 128],
            "stage_out_channels": [64, 256, 512, 1024],
            "stage_num_blocks": [1, 1, 2, 1],
            "stage_downsample": [False, True, True, True],
            "stage_light_block": [False, False, True, True],
            "stage_kernel_size": [3, 3, 5, 5],
            "stage_numb_of_layers": [3, 3, 3, 3],
        },
        encoder_in_channels=[512, 1024],
        feat_strides=[16, 32],
        num_feature_levels=2,
        encoder_hidden_dim=128,
        d_model=128,
        decoder_in_channels=[128, 128],
        encode_proj_layers=[1],
        encoder_ffn_dim=512,
        decoder_ffn_dim=512,
        decoder_layers=3,
        decoder_n_points=[6, 6],
        num_queries=100,
        depth_mult=0.5,
        hidden_expansion=0.34,
    ),
    "BERT-tiny": _text(
        "transformers:bert",
        head="text",
        vocab_size=30522,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
    ),
    "MiniLM-L6": _text(
        "transformers:bert",
        head="embedding",
        vocab_size=30522,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
    ),
    "DistilBERT": _text("transformers:distilbert", head="text", vocab_size=30522),
    "Whisper-tiny's encoder": Network(factory="tests.zoo.wholes:whisper_encoder", reads="spectrum", side=3000),
    "AST": Network(
        factory="transformers:audio-spectrogram-transformer",
        arguments={
            "head": "sound",
            "hidden_size": 192,
            "num_attention_heads": 3,
            "intermediate_size": 768,
            "num_hidden_layers": 6,
            "max_length": 256,
        },
        reads="sound",
        side=256,
    ),
}
OTHERS = {
    "YOLOv8n": _image("ultralytics:yolov8n"),
    "YOLO11n": _image("ultralytics:yolo11n"),
    "U-Net of smp": _image("tests.zoo.wholes:smp_unet"),
    "DS-CNN": Network(factory="compress.models:ds_cnn", reads="recording", side=16000),
    "GRU": Network(factory="tests.zoo.wholes:gru", reads="sequence", side=50),
}
NETWORKS: dict[str, Network] = {**TORCHVISION, **TIMM, **TRANSFORMERS, **OTHERS}
