"""What was found when the errors and warnings on freshly built models were looked into by hand."""

_DEEP = "True: torch's default weights, made for shallow nets; this one does not train without a remedy."
_CPMANT = "True: the configuration's default `init_std` is 1.0."

REVIEWED: dict[tuple[str, str], str] = {
    ("torch/mlp_relu_20", "INI404"): _DEEP,
    ("torch/mlp_relu_20", "INI405"): _DEEP,
    ("torch/mlp_sigmoid_8", "INI404"): _DEEP,
    ("torch/mlp_sigmoid_8", "INI405"): _DEEP,
    ("diffusers/AutoencoderTiny", "INI405"): "True: a deep ReLU decoder with torch's default weights and no norm.",
    ("causal_lm/cpmant", "INI206"): _CPMANT,
    ("causal_lm/cpmant", "INI406"): _CPMANT,
    ("causal_lm/cpmant", "INI501"): _CPMANT,
    ("image_classifier/regnet", "INI202"): "True: `kaiming_normal_(mode='fan_out')` on grouped convolutions; the "
    "original divides by the groups.",
    ("image_classifier/swiftformer", "INI206"): "True but harmless: `torch.randn` weights whose product is normalised "
    "to length one behind them.",
    (
        "image_classifier/mobilevit",
        "INI213",
    ): "True: `_init_weights` draws the scales of `nn.BatchNorm2d` from N(0, .02), as if they were weights.",
    ("masked_lm/funnel", "INI110"): "True: `uniform_(b=…)` draws from [0, b), so these tables are all positive.",
    ("masked_lm/funnel", "INI312"): "True: word embeddings at std 1, tied to the head.",
    ("masked_lm/funnel", "INI501"): "True: the consequence of INI312.",
    (
        "seq2seq_lm/switch_transformers",
        "INI206",
    ): "True: the router is drawn at std 1; the paper asks for small routers.",
    ("seq2seq_lm/mt5", "INI312"): "True as built: embeddings at std 1 are tied here, and nothing scales the scores.",
    ("seq2seq_lm/mt5", "INI501"): "True: the consequence of INI312.",
}
