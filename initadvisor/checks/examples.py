"""A few lines that a check finds wrong, and the same lines without the fault, by code; ``explain`` shows them."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, str]] = {
    "INI101": ("fc.weight = nn.Parameter(torch.empty(64, 64))  # never filled", "nn.init.kaiming_normal_(fc.weight)"),
    "INI102": ("model.to_empty(device='cuda')", "model.to_empty(device='cuda'); model.apply(reset)"),
    "INI103": (
        "model.to_empty(device='cuda')  # running averages, too",
        "model.to_empty(device='cuda'); bn.reset_running_stats()",
    ),
    "INI104": ("nn.init.constant_(fc.weight, 0.1)", "nn.init.xavier_normal_(fc.weight)"),
    "INI105": ("w = torch.randn(1, 64).expand(64, 64).clone()", "w = torch.randn(64, 64) / 8"),
    "INI106": ("layers = [copy.deepcopy(layer) for _ in range(6)]", "layers = [make_layer() for _ in range(6)]"),
    "INI107": (
        "gate = nn.Parameter(torch.zeros(1)); nn.init.zeros_(out.weight)  # gate * out(x)",
        "gate = nn.Parameter(torch.zeros(1))  # out as torch draws it",
    ),
    "INI108": (
        "for p in model.parameters():\n    nn.init.zeros_(p) if p.ndim == 1 else nn.init.xavier_uniform_(p)",
        "for name, p in model.named_parameters():\n    if p.ndim > 1:\n        nn.init.xavier_uniform_(p)",
    ),
    "INI109": ("nn.init.constant_(fc.bias, 30.0)", "nn.init.zeros_(fc.bias)"),
    "INI110": ("fc.weight.data = torch.rand(64, 64)", "nn.init.uniform_(fc.weight, -64**-0.5, 64**-0.5)"),
    "INI111": ("self.old = nn.Linear(64, 64)  # forward never calls it", "del self.old"),
    "INI112": ("return self.net(x).detach() + self.shift", "return self.net(x) + self.shift"),
    "INI201": (
        "nn.init.xavier_uniform_(attn.in_proj_weight)",
        "for w in attn.in_proj_weight.chunk(3):\n    nn.init.xavier_uniform_(w)",
    ),
    "INI202": (
        "nn.init.kaiming_normal_(depthwise.weight, mode='fan_out')",
        "nn.init.kaiming_normal_(depthwise.weight, mode='fan_in')",
    ),
    "INI203": (
        "nn.init.kaiming_normal_(up.weight)  # a ConvTranspose2d",
        "nn.init.normal_(up.weight, std=(2 / fan_in_of_use) ** 0.5)",
    ),
    "INI204": (
        "nn.init.kaiming_normal_(experts)  # (experts, in, out)",
        "for w in experts:\n    nn.init.kaiming_normal_(w.T)",
    ),
    "INI205": (
        "nn.init.kaiming_normal_(w, nonlinearity='selu')",
        "nn.init.kaiming_normal_(w, nonlinearity='linear')",
    ),
    "INI206": (
        "self.w = nn.Parameter(torch.randn(256, 64))",
        "self.w = nn.Parameter(torch.randn(256, 64) / 256**0.5)",
    ),
    "INI207": (
        "nn.init.trunc_normal_(w, std=0.02)  # cuts at 2, not at 2 std",
        "nn.init.trunc_normal_(w, std=0.02, a=-0.04, b=0.04)",
    ),
    "INI208": (
        "if name.endswith('c_proj.weight'):\n    std /= (2 * layers) ** 0.5  # the feed-forward's is called fc2",
        "if name.endswith(('c_proj.weight', 'fc2.weight')):\n    std /= (2 * layers) ** 0.5",
    ),
    "INI209": (
        "if name.endswith('c_proj.weight'): scale(p)  # no such name here",
        "if name.endswith('out_proj.weight'): scale(p)",
    ),
    "INI210": ("nn.init.normal_(fc.weight, std=1e-4)", "nn.init.normal_(fc.weight, std=fc.in_features**-0.5)"),
    "INI211": (
        "x = torch.sin(30 * nn.Linear(64, 64)(x))  # torch's default",
        "bound = (6 / 64) ** 0.5 / 30\nnn.init.uniform_(fc.weight, -bound, bound)",
    ),
    "INI212": (
        "x = self.table(ids) + self.place(xy)  # N(0, 1) and 0.1",
        "nn.init.normal_(self.table.weight, std=0.1)",
    ),
    "INI213": (
        "for p in model.parameters():\n    nn.init.normal_(p, std=0.02)",
        "for m in model.modules():\n    if isinstance(m, nn.Linear):\n        nn.init.normal_(m.weight, std=0.02)",
    ),
    "INI214": (
        "for w in (self.up.weight, self.down.weight):\n    nn.init.normal_(w, std=0.02 / (layer + 1) ** 0.5)",
        "nn.init.normal_(self.up.weight, std=0.02)\nnn.init.normal_(self.down.weight, std=0.02 / (layer + 1) ** 0.5)",
    ),
    "INI215": (
        "conv = weight_norm(conv); nn.init.normal_(conv.weight, std=0.01)",
        "nn.init.normal_(conv.weight, std=0.01); conv = weight_norm(conv)",
    ),
    "INI216": (
        "nn.init.zeros_(self.gate.weight)\nself.post_init()  # fills it again",
        "self.post_init()\nnn.init.zeros_(self.gate.weight)",
    ),
    "INI301": (
        "nn.init.orthogonal_(lstm.weight_hh_l0)",
        "for w in lstm.weight_hh_l0.chunk(4):\n    nn.init.orthogonal_(w)",
    ),
    "INI302": (
        "lstm.bias_ih_l0.data[h:2 * h] = 1\nlstm.bias_hh_l0.data[h:2 * h] = 1",
        "lstm.bias_ih_l0.data[h:2 * h] = 1",
    ),
    "INI303": (
        "nn.init.zeros_(lstm.bias_ih_l0)",
        "nn.init.zeros_(lstm.bias_ih_l0)\nlstm.bias_ih_l0.data[h:2 * h] = 1",
    ),
    "INI304": (
        "nn.init.zeros_(dt_proj.bias)  # steps of 0.69",
        "dt = torch.exp(torch.empty(d).uniform_(-6.9, -2.3))  # .001 to .1\ndt_proj.bias.data = dt.expm1().log()",
    ),
    "INI311": (
        "nn.init.normal_(emb.weight, std=0.02)",
        "nn.init.normal_(emb.weight, std=0.02)\nemb.weight.data[emb.padding_idx] = 0",
    ),
    "INI312": (
        "head.weight = emb.weight  # torch's N(0, 1)",
        "nn.init.normal_(emb.weight, std=0.02)\nhead.weight = emb.weight",
    ),
    "INI313": (
        "self.places = nn.Parameter(torch.randn(n, d))",
        "self.places = nn.Parameter(0.02 * torch.randn(n, d))",
    ),
    "INI314": ("nn.init.constant_(factors.weight, 0.1)", "nn.init.normal_(factors.weight, std=0.1)"),
    "INI401": ("nn.init.constant_(fc.bias, -9.0)  # before a ReLU", "nn.init.zeros_(fc.bias)"),
    "INI402": ("nn.init.normal_(fc.weight)  # before tanh, 64 inputs", "nn.init.xavier_normal_(fc.weight)"),
    "INI403": ("nn.init.normal_(w, std=0.01)  # in each of 20 ReLU layers", "nn.init.kaiming_normal_(w)"),
    "INI404": (
        "[nn.Linear(64, 64), nn.ReLU()] * 20  # torch's default",
        "nn.init.kaiming_normal_(layer.weight, nonlinearity='relu')",
    ),
    "INI405": ("nn.init.xavier_normal_(w)  # 8 sigmoid layers", "nn.init.xavier_normal_(w, gain=4.8)"),
    "INI406": ("scores = q @ k.transpose(-1, -2)", "scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5"),
    "INI407": ("nn.init.normal_(w, std=1e4)", "nn.init.normal_(w, std=w.shape[1] ** -0.5)"),
    "INI408": (
        "nn.init.normal_(out_proj.weight, std=0.02)  # 24 branches",
        "nn.init.normal_(out_proj.weight, std=0.02 / 24**0.5)",
    ),
    "INI409": ("x = (x - x.mean()) / x.std()  # of one value", "x = (x - x.mean()) / (x.std() + 1e-6)"),
    "INI410": (
        "nn.TransformerEncoderLayer(512, 8)  # 12 of them, lr=1e-3 at once",
        "nn.TransformerEncoderLayer(512, 8, norm_first=True)",
    ),
    "INI501": ("nn.init.normal_(head.weight, std=2.0)", "nn.init.zeros_(head.weight)"),
    "INI502": ("head = nn.Linear(64, 1)  # targets average 50", "nn.init.constant_(head.bias, y.mean())"),
    "INI503": ("loss = -torch.log(p).mean()  # p may be 0", "loss = -torch.log(p.clamp_min(1e-8)).mean()"),
    "INI504": ("nn.MSELoss()(model(x), y)  # (N, 1) and (N,)", "nn.MSELoss()(model(x).squeeze(-1), y)"),
    "INI505": ("F.cross_entropy(model(x).softmax(-1), y)", "F.cross_entropy(model(x), y)"),
    "INI506": ("F.cross_entropy(scores, y)  # labels 1 to 10 of 10", "F.cross_entropy(scores, y - 1)"),
    "INI507": ("advise(model, (x, y))  # output (N, 1), y (N,)", "advise(model, (x, y.reshape(-1, 1)))"),
    "INI508": (
        "nn.init.zeros_(scores.bias)  # 1% are positive",
        "nn.init.constant_(scores.bias, math.log(0.01 / 0.99))",
    ),
    "INI509": ("nn.init.constant_(boxes.bias, -4.6)", "nn.init.constant_(scores.bias, -4.6)"),
    "INI510": ("nn.init.orthogonal_(actor[-1].weight)", "nn.init.orthogonal_(actor[-1].weight, gain=0.01)"),
    "INI601": ("x = 1 / distance  # 0 among them", "x = 1 / distance.clamp_min(1e-3)"),
    "INI602": ("model(pixels)  # 0 to 255", "model((pixels - mean) / std)"),
    "INI901": ("check(model, x)  # no target, no loss", "check(model, (x, y), loss=nn.MSELoss())"),
    "INI902": ("y = my_kernel(x, self.weight)  # an op of one's own", "y = F.linear(x, self.weight)"),
    "INI903": ("check(model, batch)", "INITADVISOR_STRICT=1 initadvisor check train.py  # and report it"),
}  # fmt: skip
