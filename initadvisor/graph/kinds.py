"""What the names of ops mean for a signal: which only move numbers, which bend them, which mix them."""

from __future__ import annotations

from enum import StrEnum


def words(text: str) -> frozenset[str]:
    """The words of a line, as a set.

    Example:
        >>> sorted(words("relu gelu"))
        ['gelu', 'relu']
    """
    return frozenset(text.split())


class Kind(StrEnum):
    """What an op does to the signal that runs through it."""

    LAYER = "layer"  # a linear map whose weight is made of parameters
    MIX = "mix"  # a contraction of two signals (attention scores, attention times values)
    ATTENTION = "attention"  # a whole attention in one call
    SOFTMAX = "softmax"
    NORM = "norm"
    INNER = "inner"  # part of a norm written by hand
    CARRY = "carry"  # moves, casts, pools, scales or shifts one signal; linear
    BEND = "bend"  # elementwise and nonlinear (or an unknown elementwise function)
    SUM = "sum"  # adds two signals
    PRODUCT = "product"  # multiplies two signals
    JOIN = "join"  # concatenates or stacks signals
    CHOOSE = "choose"  # top-k, argmax, sort: decides where signals go
    OTHER = "other"  # anything else: the signal goes in and comes out
    PURE = "pure"  # reads no signal at all: weights, constants, masks, positions


LAYOUT = words(
    "view reshape permute transpose t T mT H mH flatten unflatten ravel squeeze unsqueeze expand expand_as view_as "
    "reshape_as movedim contiguous clone to type float double half bfloat16 cfloat cdouble cuda cpu detach data "
    "type_as alias lift_fresh positive as_strided adjoint real imag view_as_real view_as_complex resolve_conj conj "
    "chunk split split_with_sizes unsafe_chunk unsafe_split unbind getitem narrow select unfold diagonal roll flip "
    "fliplr flipud rot90 pad constant_pad_nd repeat tile broadcast_to pixel_shuffle pixel_unshuffle channel_shuffle "
    "native_channel_shuffle dropout alpha_dropout feature_dropout dropout1d dropout2d dropout3d feature_alpha_dropout "
    "native_dropout tril triu diag diag_embed fold im2col col2im affine_grid atleast_1d atleast_2d atleast_3d "
    "pack_padded_sequence _pack_padded_sequence pad_packed_sequence _pad_packed_sequence requires_grad __deepcopy__ "
    "identity to_dense to_sparse coalesce pin_memory as_tensor rename diagflat resize_as"
)
"""Ops that only move or cast numbers."""

SPLITTING = words("chunk split split_with_sizes unsafe_chunk unsafe_split unbind getitem narrow select tensor_split")
"""Layout ops that may hand different features to different readers."""

POOLING = words(
    "mean sum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d max_pool1d "
    "max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices boolean_dispatch "
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d lp_pool1d lp_pool2d lp_pool3d amax amin max min "
    "interpolate upsample upsample_bilinear upsample_nearest grid_sample median nanmedian nanmean cumsum logsumexp "
    "logcumsumexp quantile nanquantile sum_to_size trace "
    "fractional_max_pool2d max_unpool2d nansum std var"
)
"""Ops that summarise or resample one signal; they carry what came in, on a coarser or finer grid."""

GATHERING = words(
    "gather index_select take_along_dim take masked_select masked_fill masked_scatter where index_put index_add "
    "index_copy index_fill scatter scatter_add scatter_reduce setitem copy segment_reduce "
    "put index repeat_interleave fill fill_diagonal new_tensor nan_to_num lerp masked "
    "sparse_mm spmm _segment_reduce nested_tensor set_data slice_scatter zero"
)
"""Ops that pick from, or write into, a signal by positions."""

JOINING = words("cat stack hstack vstack dstack block_diag column_stack row_stack cartesian_prod")

SUMS = words("add sub rsub addcmul addcdiv")
PRODUCTS = words("mul div rdiv")

SOFTMAXES = words("softmax log_softmax gumbel_softmax softmin _softmax entmax sparsemax")

CHOOSERS = words("topk argmax argmin sort msort argsort unique one_hot multinomial kthvalue bincount histc")

NORMS = {
    "layer_norm": "layer_norm",
    "native_layer_norm": "layer_norm",
    "rms_norm": "rms_norm",
    "batch_norm": "batch_norm",
    "sync_batch_norm": "batch_norm",
    "group_norm": "group_norm",
    "instance_norm": "instance_norm",
    "local_response_norm": "local_response_norm",
    "normalize": "l2_norm",
}
"""Calls that normalise a signal -> the name told."""

BENDS = words(
    "relu relu6 leaky_relu prelu rrelu elu celu selu gelu silu mish tanh sigmoid softplus softsign hardswish "
    "hardsigmoid hardtanh logsigmoid log_sigmoid tanhshrink softshrink hardshrink threshold glu sin cos sinc exp exp2 "
    "expm1 log log2 log10 log1p sqrt rsqrt square pow rpow abs reciprocal erf erfc erfinv atan arctan asinh acos asin "
    "atan2 sinh cosh atanh clamp clamp_min clamp_max sign sgn floor ceil round frac trunc heaviside logit maximum "
    "minimum fmod remainder floor_divide tan i0 logaddexp bucketize angle xlogy hypot copysign log_normal "
    "polar complex acosh digamma lgamma polygamma mvlgamma igamma igammac erfcx entr i0e i1 i1e ndtr ndtri log_ndtr "
    "fmax fmin logaddexp2 nextafter ldexp"
)
"""Elementwise functions that are not affine."""

AFFINE = words("add sub rsub mul div rdiv neg deg2rad rad2deg")
"""Elementwise functions that are affine in one signal when the other operand is a constant."""

CONTRACTIONS = words(
    "linear matmul rmatmul mm bmm mv addmm addmv addbmm baddbmm einsum bilinear inner tensordot dot vdot vecdot outer "
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution chain_matmul multi_dot "
    "_grouped_mm grouped_mm kron cdist conv_tbc _scaled_mm scaled_mm deform_conv2d"
)

LOOKUPS = words("embedding embedding_bag")

RECURRENT_LAYERS = words("lstm_layer gru_layer rnn_tanh_layer rnn_relu_layer")
"""One layer and direction of a recurrent net, as :mod:`initadvisor.graph.lower` writes it."""

DRAWS = words("rand randn rand_like randn_like bernoulli normal uniform exponential random")
"""Ops that draw numbers."""

RANDOM = words(
    "rand randn randint rand_like randn_like randint_like bernoulli normal uniform zeros ones empty full zeros_like "
    "ones_like empty_like full_like arange linspace tensor eye new_zeros new_ones new_empty new_full random "
    "exponential meshgrid tril_indices triu_indices logspace scalar_tensor hann_window"
)
"""Ops that make numbers, whatever tensor they take the shape from."""

LOSSES = words(
    "cross_entropy binary_cross_entropy binary_cross_entropy_with_logits nll_loss ctc_loss mse_loss l1_loss "
    "smooth_l1_loss huber_loss kl_div hinge_embedding_loss cosine_embedding_loss margin_ranking_loss multi_margin_loss "
    "multilabel_margin_loss multilabel_soft_margin_loss soft_margin_loss triplet_margin_loss poisson_nll_loss "
    "gaussian_nll_loss"
)
"""Where a signal ends in the model's own loss, as when a batch holds labels: no weight comes after."""

KNOWN = frozenset(
    LAYOUT
    | POOLING
    | GATHERING
    | JOINING
    | SUMS
    | PRODUCTS
    | SOFTMAXES
    | CHOOSERS
    | frozenset(NORMS)
    | BENDS
    | AFFINE
    | CONTRACTIONS
    | LOOKUPS
    | RECURRENT_LAYERS
    | RANDOM
    | LOSSES
    | words("scaled_dot_product_attention norm dist pairwise_distance cosine_similarity prod cumprod diff")
)
"""Ops whose effect on a signal is understood; all others are named in the coverage where weights meet them."""
