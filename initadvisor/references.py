"""Citations as data: cards, rules and checks name keys of this table; ``advice.bibtex()`` prints those that fired."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from initadvisor.errors import RegistryError, nearest


@dataclass(frozen=True, slots=True)
class Reference:
    """One paper or source.

    Attributes:
        key: short name used in cards and rules, ``surname + year`` (+ a letter).
        authors: as BibTeX wants them, joined by ``and``.
        title: of the paper.
        venue: conference, journal or archive.
        year: of that version.
        url: where to read it; empty where the venue is enough.
    """

    key: str
    authors: str
    title: str
    venue: str
    year: int
    url: str = ""

    @property
    def short(self) -> str:
        """Text citation, ``Glorot & Bengio 2010`` style.

        Example:
            >>> cite("glorot2010").short
            'Glorot & Bengio 2010'
        """
        names = [a.split(",")[0].strip() for a in self.authors.split(" and ")]
        if "others" in names or len(names) > 2:
            return f"{names[0]} et al. {self.year}"
        return f"{' & '.join(names)} {self.year}"

    def bibtex(self) -> str:
        """The BibTeX entry."""
        lines = [
            f"@misc{{{self.key},",
            f"  author = {{{self.authors}}},",
            f"  title = {{{self.title}}},",
            f"  howpublished = {{{self.venue}}},",
            f"  year = {{{self.year}}},",
        ]
        if self.url:
            lines.append(f"  url = {{{self.url}}},")
        return "\n".join([*lines, "}"])


_TABLE = (
    Reference(
        "glorot2010",
        "Glorot, Xavier and Bengio, Yoshua",
        "Understanding the difficulty of training deep feedforward neural networks",
        "AISTATS",
        2010,
        "https://proceedings.mlr.press/v9/glorot10a.html",
    ),
    Reference(
        "he2015",
        "He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian",
        "Delving Deep into Rectifiers: Surpassing Human-Level Performance on ImageNet Classification",
        "ICCV",
        2015,
        "https://arxiv.org/abs/1502.01852",
    ),
    Reference(
        "lecun1998",
        "LeCun, Yann and Bottou, Léon and Orr, Genevieve B. and Müller, Klaus-Robert",
        "Efficient BackProp",
        "Neural Networks: Tricks of the Trade",
        1998,
    ),
    Reference(
        "klambauer2017",
        "Klambauer, Günter and Unterthiner, Thomas and Mayr, Andreas and Hochreiter, Sepp",
        "Self-Normalizing Neural Networks",
        "NeurIPS",
        2017,
        "https://arxiv.org/abs/1706.02515",
    ),
    Reference(
        "saxe2014",
        "Saxe, Andrew M. and McClelland, James L. and Ganguli, Surya",
        "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks",
        "ICLR",
        2014,
        "https://arxiv.org/abs/1312.6120",
    ),
    Reference(
        "stewart1980",
        "Stewart, G. W.",
        "The Efficient Generation of Random Orthogonal Matrices with an Application to Condition Estimators",
        "SIAM Journal on Numerical Analysis 17(3)",
        1980,
    ),
    Reference(
        "xiao2018",
        "Xiao, Lechao and Bahri, Yasaman and Sohl-Dickstein, Jascha and Schoenholz, Samuel and Pennington, Jeffrey",
        "Dynamical Isometry and a Mean Field Theory of CNNs: How to Train 10,000-Layer Vanilla Convolutional "
        "Neural Networks",
        "ICML",
        2018,
        "https://arxiv.org/abs/1806.05393",
    ),
    Reference(
        "poole2016",
        "Poole, Ben and Lahiri, Subhaneil and Raghu, Maithra and Sohl-Dickstein, Jascha and Ganguli, Surya",
        "Exponential expressivity in deep neural networks through transient chaos",
        "NeurIPS",
        2016,
        "https://arxiv.org/abs/1606.05340",
    ),
    Reference(
        "chizat2019",
        "Chizat, Lénaïc and Oyallon, Edouard and Bach, Francis",
        "On Lazy Training in Differentiable Programming",
        "NeurIPS",
        2019,
        "https://arxiv.org/abs/1812.07956",
    ),
    Reference(
        "schoenholz2017",
        "Schoenholz, Samuel S. and Gilmer, Justin and Ganguli, Surya and Sohl-Dickstein, Jascha",
        "Deep Information Propagation",
        "ICLR",
        2017,
        "https://arxiv.org/abs/1611.01232",
    ),
    Reference(
        "martens2010",
        "Martens, James",
        "Deep learning via Hessian-free optimization",
        "ICML",
        2010,
    ),
    Reference(
        "le2015",
        "Le, Quoc V. and Jaitly, Navdeep and Hinton, Geoffrey E.",
        "A Simple Way to Initialize Recurrent Networks of Rectified Linear Units",
        "arXiv",
        2015,
        "https://arxiv.org/abs/1504.00941",
    ),
    Reference(
        "sitzmann2020",
        "Sitzmann, Vincent and Martel, Julien and Bergman, Alexander and Lindell, David and Wetzstein, Gordon",
        "Implicit Neural Representations with Periodic Activation Functions",
        "NeurIPS",
        2020,
        "https://arxiv.org/abs/2006.09661",
    ),
    Reference(
        "zhao2022zero",
        "Zhao, Jiawei and Schäfer, Florian and Anandkumar, Anima",
        "ZerO Initialization: Initializing Neural Networks with only Zeros and Ones",
        "TMLR",
        2022,
        "https://arxiv.org/abs/2110.12661",
    ),
    Reference(
        "zagoruyko2017",
        "Zagoruyko, Sergey and Komodakis, Nikos",
        "DiracNets: Training Very Deep Neural Networks Without Skip-Connections",
        "arXiv",
        2017,
        "https://arxiv.org/abs/1706.00388",
    ),
    Reference(
        "goyal2017",
        "Goyal, Priya and Dollár, Piotr and Girshick, Ross and others",
        "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour",
        "arXiv",
        2017,
        "https://arxiv.org/abs/1706.02677",
    ),
    Reference(
        "zhang2019fixup",
        "Zhang, Hongyi and Dauphin, Yann N. and Ma, Tengyu",
        "Fixup Initialization: Residual Learning Without Normalization",
        "ICLR",
        2019,
        "https://arxiv.org/abs/1901.09321",
    ),
    Reference(
        "radford2019",
        "Radford, Alec and Wu, Jeffrey and Child, Rewon and Luan, David and Amodei, Dario and Sutskever, Ilya",
        "Language Models are Unsupervised Multitask Learners",
        "OpenAI",
        2019,
    ),
    Reference(
        "dosovitskiy2021",
        "Dosovitskiy, Alexey and Beyer, Lucas and Kolesnikov, Alexander and others",
        "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
        "ICLR",
        2021,
        "https://arxiv.org/abs/2010.11929",
    ),
    Reference(
        "lin2017focal",
        "Lin, Tsung-Yi and Goyal, Priya and Girshick, Ross and He, Kaiming and Dollár, Piotr",
        "Focal Loss for Dense Object Detection",
        "ICCV",
        2017,
        "https://arxiv.org/abs/1708.02002",
    ),
    Reference(
        "ba2016",
        "Ba, Jimmy Lei and Kiros, Jamie Ryan and Hinton, Geoffrey E.",
        "Layer Normalization",
        "arXiv",
        2016,
        "https://arxiv.org/abs/1607.06450",
    ),
    Reference(
        "ioffe2015",
        "Ioffe, Sergey and Szegedy, Christian",
        "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift",
        "ICML",
        2015,
        "https://arxiv.org/abs/1502.03167",
    ),
    Reference(
        "andrychowicz2021",
        "Andrychowicz, Marcin and Raichuk, Anton and Stańczyk, Piotr and others",
        "What Matters for On-Policy Deep Actor-Critic Methods? A Large-Scale Study",
        "ICLR",
        2021,
        "https://arxiv.org/abs/2006.05990",
    ),
    Reference(
        "bachlechner2021",
        "Bachlechner, Thomas and Majumder, Bodhisattwa Prasad and Mao, Huanru Henry and others",
        "ReZero is All You Need: Fast Convergence at Large Depth",
        "UAI",
        2021,
        "https://arxiv.org/abs/2003.04887",
    ),
    Reference(
        "bai2019",
        "Bai, Shaojie and Kolter, J. Zico and Koltun, Vladlen",
        "Deep Equilibrium Models",
        "NeurIPS",
        2019,
        "https://arxiv.org/abs/1909.01377",
    ),
    Reference(
        "de2020",
        "De, Soham and Smith, Samuel L.",
        "Batch Normalization Biases Residual Blocks Towards the Identity Function in Deep Networks",
        "NeurIPS",
        2020,
        "https://arxiv.org/abs/2002.10444",
    ),
    Reference(
        "devlin2019",
        "Devlin, Jacob and Chang, Ming-Wei and Lee, Kenton and Toutanova, Kristina",
        "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
        "NAACL",
        2019,
        "https://arxiv.org/abs/1810.04805",
    ),
    Reference(
        "fedus2022",
        "Fedus, William and Zoph, Barret and Shazeer, Noam",
        "Switch Transformers: Scaling to Trillion Parameter Models with Simple and Efficient Sparsity",
        "JMLR",
        2022,
        "https://arxiv.org/abs/2101.03961",
    ),
    Reference(
        "gers2000",
        "Gers, Felix A. and Schmidhuber, Jürgen and Cummins, Fred",
        "Learning to Forget: Continual Prediction with LSTM",
        "Neural Computation",
        2000,
    ),
    Reference(
        "gu2023",
        "Gu, Albert and Dao, Tri",
        "Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
        "arXiv",
        2023,
        "https://arxiv.org/abs/2312.00752",
    ),
    Reference(
        "he2016",
        "He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian",
        "Identity Mappings in Deep Residual Networks",
        "ECCV",
        2016,
        "https://arxiv.org/abs/1603.05027",
    ),
    Reference(
        "henaff2016",
        "Henaff, Mikael and Szlam, Arthur and LeCun, Yann",
        "Recurrent Orthogonal Networks and Long-Memory Tasks",
        "ICML",
        2016,
        "https://arxiv.org/abs/1602.06662",
    ),
    Reference(
        "ho2020",
        "Ho, Jonathan and Jain, Ajay and Abbeel, Pieter",
        "Denoising Diffusion Probabilistic Models",
        "NeurIPS",
        2020,
        "https://arxiv.org/abs/2006.11239",
    ),
    Reference(
        "hu2022",
        "Hu, Edward J. and Shen, Yelong and Wallis, Phillip and others",
        "LoRA: Low-Rank Adaptation of Large Language Models",
        "ICLR",
        2022,
        "https://arxiv.org/abs/2106.09685",
    ),
    Reference(
        "he2017",
        "He, Xiangnan and Liao, Lizi and Zhang, Hanwang and Nie, Liqiang and Hu, Xia and Chua, Tat-Seng",
        "Neural Collaborative Filtering",
        "WWW",
        2017,
        "https://arxiv.org/abs/1708.05031",
    ),
    Reference(
        "huang2020",
        "Huang, Xiao Shi and Perez, Felipe and Ba, Jimmy and Volkovs, Maksims",
        "Improving Transformer Optimization Through Better Initialization",
        "ICML",
        2020,
        "https://proceedings.mlr.press/v119/huang20f.html",
    ),
    Reference(
        "jozefowicz2015",
        "Jozefowicz, Rafal and Zaremba, Wojciech and Sutskever, Ilya",
        "An Empirical Exploration of Recurrent Network Architectures",
        "ICML",
        2015,
        "https://proceedings.mlr.press/v37/jozefowicz15.html",
    ),
    Reference(
        "karpathy2019",
        "Karpathy, Andrej",
        "A Recipe for Training Neural Networks",
        "blog",
        2019,
        "https://karpathy.github.io/2019/04/25/recipe/",
    ),
    Reference(
        "kipf2017",
        "Kipf, Thomas N. and Welling, Max",
        "Semi-Supervised Classification with Graph Convolutional Networks",
        "ICLR",
        2017,
        "https://arxiv.org/abs/1609.02907",
    ),
    Reference(
        "liang2024",
        "Liang, Wanchao and Liu, Tianyu and Wright, Less and others",
        "TorchTitan: One-stop PyTorch native solution for production ready LLM pre-training",
        "arXiv",
        2024,
        "https://arxiv.org/abs/2410.06511",
    ),
    Reference(
        "liu2021",
        "Liu, Ze and Lin, Yutong and Cao, Yue and others",
        "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
        "ICCV",
        2021,
        "https://arxiv.org/abs/2103.14030",
    ),
    Reference(
        "paszke2019",
        "Paszke, Adam and Gross, Sam and Massa, Francisco and others",
        "PyTorch: An Imperative Style, High-Performance Deep Learning Library",
        "NeurIPS",
        2019,
        "https://arxiv.org/abs/1912.01703",
    ),
    Reference(
        "peebles2023",
        "Peebles, William and Xie, Saining",
        "Scalable Diffusion Models with Transformers",
        "ICCV",
        2023,
        "https://arxiv.org/abs/2212.09748",
    ),
    Reference(
        "perez2018",
        "Perez, Ethan and Strub, Florian and de Vries, Harm and Dumoulin, Vincent and Courville, Aaron",
        "FiLM: Visual Reasoning with a General Conditioning Layer",
        "AAAI",
        2018,
        "https://arxiv.org/abs/1709.07871",
    ),
    Reference(
        "press2017",
        "Press, Ofir and Wolf, Lior",
        "Using the Output Embedding to Improve Language Models",
        "EACL",
        2017,
        "https://arxiv.org/abs/1608.05859",
    ),
    Reference(
        "radford2016",
        "Radford, Alec and Metz, Luke and Chintala, Soumith",
        "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks",
        "ICLR",
        2016,
        "https://arxiv.org/abs/1511.06434",
    ),
    Reference(
        "steinwart2019",
        "Steinwart, Ingo",
        "A Sober Look at Neural Network Initializations",
        "arXiv",
        2019,
        "https://arxiv.org/abs/1903.11482",
    ),
    Reference(
        "touvron2021",
        "Touvron, Hugo and Cord, Matthieu and Sablayrolles, Alexandre and Synnaeve, Gabriel and Jégou, Hervé",
        "Going deeper with Image Transformers",
        "ICCV",
        2021,
        "https://arxiv.org/abs/2103.17239",
    ),
    Reference(
        "vaswani2017",
        "Vaswani, Ashish and Shazeer, Noam and Parmar, Niki and others",
        "Attention Is All You Need",
        "NeurIPS",
        2017,
        "https://arxiv.org/abs/1706.03762",
    ),
    Reference(
        "wang2022",
        "Wang, Hongyu and Ma, Shuming and Dong, Li and others",
        "DeepNet: Scaling Transformers to 1,000 Layers",
        "arXiv",
        2022,
        "https://arxiv.org/abs/2203.00555",
    ),
    Reference(
        "wang2023",
        "Wang, Hongyu and Ma, Shuming and Huang, Shaohan and others",
        "Magneto: A Foundation Transformer",
        "ICML",
        2023,
        "https://arxiv.org/abs/2210.06423",
    ),
    Reference(
        "xiong2020",
        "Xiong, Ruibin and Yang, Yunchang and He, Di and others",
        "On Layer Normalization in the Transformer Architecture",
        "ICML",
        2020,
        "https://arxiv.org/abs/2002.04745",
    ),
    Reference(
        "yang2022",
        "Yang, Greg and Hu, Edward J. and Babuschkin, Igor and others",
        "Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer",
        "arXiv",
        2022,
        "https://arxiv.org/abs/2203.03466",
    ),
    Reference(
        "pennington2017",
        "Pennington, Jeffrey and Schoenholz, Samuel S. and Ganguli, Surya",
        "Resurrecting the sigmoid in deep learning through dynamical isometry: theory and practice",
        "NeurIPS",
        2017,
        "https://arxiv.org/abs/1711.04735",
    ),
    Reference(
        "raffel2020",
        "Raffel, Colin and Shazeer, Noam and Roberts, Adam and others",
        "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
        "JMLR",
        2020,
        "https://arxiv.org/abs/1910.10683",
    ),
    Reference(
        "kumar2022",
        "Kumar, Ananya and Raghunathan, Aditi and Jones, Robbie and Ma, Tengyu and Liang, Percy",
        "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution",
        "ICLR",
        2022,
        "https://arxiv.org/abs/2202.10054",
    ),
    Reference(
        "mishkin2016",
        "Mishkin, Dmytro and Matas, Jiri",
        "All you need is a good init",
        "ICLR",
        2016,
        "https://arxiv.org/abs/1511.06422",
    ),
    Reference(
        "bingham2023",
        "Bingham, Garrett and Miikkulainen, Risto",
        "AutoInit: Analytic Signal-Preserving Weight Initialization for Neural Networks",
        "AAAI",
        2023,
        "https://arxiv.org/abs/2109.08958",
    ),
    Reference(
        "dauphin2019",
        "Dauphin, Yann N. and Schoenholz, Samuel",
        "MetaInit: Initializing learning by learning to initialize",
        "NeurIPS",
        2019,
        "https://papers.nips.cc/paper/2019/hash/876e8108f87eb61877c6263228b67256-Abstract.html",
    ),
    Reference(
        "zhu2021",
        "Zhu, Chen and Ni, Renkun and Xu, Zheng and Kong, Kezhi and Huang, W. Ronny and Goldstein, Tom",
        "GradInit: Learning to Initialize Neural Networks for Stable and Efficient Training",
        "NeurIPS",
        2021,
        "https://arxiv.org/abs/2102.08098",
    ),
    Reference(
        "freeman2021",
        "Freeman, C. Daniel and Frey, Erik and Raichuk, Anton and Girgin, Sertan and Mordatch, Igor and "
        "Bachem, Olivier",
        "Brax: A Differentiable Physics Engine for Large Scale Rigid Body Simulation",
        "NeurIPS Datasets and Benchmarks",
        2021,
        "https://arxiv.org/abs/2106.13281",
    ),
    Reference(
        "trockman2023",
        "Trockman, Asher and Kolter, J. Zico",
        "Mimetic Initialization of Self-Attention Layers",
        "ICML",
        2023,
        "https://arxiv.org/abs/2305.09828",
    ),
    Reference(
        "dao2024",
        "Dao, Tri and Gu, Albert",
        "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality",
        "ICML",
        2024,
        "https://arxiv.org/abs/2405.21060",
    ),
)

REFERENCES: dict[str, Reference] = {}
for _reference in _TABLE:
    if _reference.key in REFERENCES:
        raise RegistryError(f'reference "{_reference.key}" is listed twice')
    REFERENCES[_reference.key] = _reference


def cite(key: str) -> Reference:
    """The reference called ``key``.

    Raises:
        RegistryError: no such key; the nearest is named.
    """
    if key not in REFERENCES:
        raise RegistryError(f'no reference "{key}"; {nearest(key, REFERENCES)}')
    return REFERENCES[key]


def bibtex(keys: Iterable[str]) -> str:
    """BibTeX entries of ``keys``, each once, sorted."""
    return "\n\n".join(cite(k).bibtex() for k in sorted(set(keys)))
