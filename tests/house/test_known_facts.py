"""Facts about initialisation that must hold, each with its tests; a test that is renamed away fails here."""

from __future__ import annotations

import ast
import functools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import initadvisor
from initadvisor.initializers.random import truncation_correction

TESTS = Path(__file__).parents[1]

HERE = "house/test_known_facts.py"
TORCH = "initializers/test_against_torch.py"
CONTRACT = "initializers/test_contract.py"
GAINS = "initializers/test_gains.py"
RULES = "schemes/test_rules.py"
WHOLE = "schemes/test_whole_models.py"
APPLY = "schemes/test_apply.py"
SPEC = "schemes/test_propose_from_spec.py"
STATES = "initializers/test_attention_and_states.py"
ROWS = f"{RULES}::test_rule_fires_and_says_what_its_source_says"
PLANTED = "checks/test_planted.py::test_a_planted_bug_is_found"

FACTS: dict[str, tuple[str, ...]] = {
    "torch's linear default has a sixth of He's variance": (
        f"{HERE}::test_torchs_default_has_a_sixth_of_hes_variance",
        "schemes/test_torch_default.py::test_default_scheme_draws_what_torch_draws",
    ),
    "a grouped convolution's fan_out is divided by its groups": (
        f"{TORCH}::test_a_grouped_convolution_keeps_gradients_where_torch_does_not",
        f"{CONTRACT}::test_a_grouped_fill_has_the_law_of_each_group",
    ),
    "a transposed convolution reads C_in/g times kernel over stride": (
        f"{TORCH}::test_a_transposed_convolution_keeps_the_signal_where_torch_does_not",
        f"{CONTRACT}::test_a_transposed_layout_is_the_transposed_fill",
    ),
    "x @ W has its fans the other way round, experts theirs apart": (
        "graph/test_fans.py::*",
        "graph/test_strangers.py::test_gathered_experts_joined_by_einsum_are_packed_gates_and_ups",
    ),
    "gains by quadrature, forward, of the variance, and backward, for any callable": (
        f"{GAINS}::test_forward_gains",
        f"{GAINS}::test_backward_and_variance_gains",
        f"{GAINS}::test_any_callable_wherever_its_kink_is",
        f"{GAINS}::test_recommended_takes_the_gain_that_carries_the_signal",
        f"{RULES}::test_swiglu_output_takes_the_gain_of_the_product",
    ),
    "a deep sigmoid stack trains with the gain of its variance and not as torch builds it": (
        f"{HERE}::test_a_deep_sigmoid_stack_trains_with_the_gain_of_its_variance_only",
    ),
    "SELU wants variance 1/fan_in": (ROWS, PLANTED),
    "a cut is relative, and what remains after it is told": (
        f"{TORCH}::test_truncation_cuts_and_keeps_the_std_where_torch_does_neither",
        f"{HERE}::test_a_cut_leaves_the_share_of_the_deviation_that_is_told",
    ),
    "orthogonal in half precision is computed in single": (
        f"{TORCH}::test_half_precision_orthogonal_works_where_torch_fails",
    ),
    "one forget bias of an LSTM is one, in every layer and direction": (
        f"{WHOLE}::test_every_layer_and_direction_of_an_lstm_opens_one_forget_gate",
    ),
    "recurrent packs are filled gate by gate": (f"{APPLY}::test_lstm_stacks_are_filled_gate_by_gate",),
    "torch's recurrent default, and a GRU's second bias": (
        "schemes/test_torch_default.py::test_default_scheme_draws_what_torch_draws",
        f"{WHOLE}::test_a_grus_second_bias_lies_inside_its_reset_gate_and_is_a_bias_of_its_own",
    ),
    "a packed projection is filled per chunk": (
        f"{WHOLE}::test_a_packed_projection_has_the_fans_of_one_chunk_and_torchs_output_keeps_its_linear_default",
    ),
    "layers that torch cloned do not stay alike": (
        f"{WHOLE}::test_layers_that_torch_cloned_are_drawn_one_by_one",
        PLANTED,
    ),
    "GPT-2's and Llama's scales": (ROWS, f"{WHOLE}::test_llama_scales_what_writes_to_the_stream_by_its_own_layer"),
    "DeepNorm, Sub-LN, T-Fixup": (ROWS, f"{RULES}::test_t_fixup_scales_decoders_by_their_own_number_and_law"),
    "of SwiGLU only the matrix that writes to the stream is scaled down": (
        f"{WHOLE}::test_of_a_gated_feed_forward_only_the_matrix_that_writes_to_the_stream_is_scaled_down",
    ),
    "a tied table is filled once, and its padding row stays zero": (
        f"{APPLY}::test_tied_tensors_are_written_once_under_their_first_name",
        f"{APPLY}::test_padding_row_stays_zero",
        f"{WHOLE}::test_a_tied_table_starts_at_the_loss_of_no_opinion_where_torchs_does_not",
    ),
    "positions, tokens, and tables that are fixed": (ROWS, f"{WHOLE}::test_fixed_tables_are_never_touched"),
    "routers, muP's zeros, mimetic attention": (
        ROWS,
        f"{STATES}::test_query_times_key_is_the_identity_and_noise",
        f"{STATES}::test_value_times_output_is_the_negative_identity_and_noise",
        f"{WHOLE}::test_attention_of_a_vision_transformer_may_start_mimetic",
    ),
    "of norms that end a branch only the last affine one is zeroed": (
        f"{WHOLE}::test_a_norm_that_ends_a_branch_is_zeroed_only_where_it_can_be_and_nothing_else_is",
    ),
    "Fixup, ReZero, LayerScale; a gate and what is behind it are never both zero": (
        ROWS,
        f"{RULES}::test_a_gate_and_the_weight_behind_it_are_never_both_zero",
        f"{SPEC}::test_a_combination_that_would_block_its_own_gradient_is_not_proposed",
    ),
    "ZerO is the identity and widens by Hadamard": (
        f"{CONTRACT}::test_zero_init_widens_without_losing_anything",
        f"{CONTRACT}::test_dirac_passes_the_input_through",
    ),
    "output biases from the targets": (
        f"{SPEC}::test_class_priors_are_log_shares_or_nothing",
        f"{SPEC}::test_output_bias_from_targets",
        f"{WHOLE}::test_sixteen_rare_labels_start_at_their_odds",
    ),
    "DCGAN, diffusion, adaLN, actor and critic": (ROWS,),
    "SIREN with the frequency of the graph": (ROWS, f"{WHOLE}::test_the_frequency_of_sines_is_read_from_the_graph"),
    "Mamba's decay and step sizes, LoRA, and marks of the author": (
        f"{STATES}::test_step_sizes_are_log_uniform",
        f"{STATES}::test_decay_rates_count_from_one",
        f"{STATES}::test_lora_a_is_torchs_linear_default",
        f"{APPLY}::test_integer_and_marked_tensors_are_left",
    ),
    "graphs and equilibria": (ROWS,),
    "weight norm, parametrizations and spectral norm hold what was drawn": (
        f"{APPLY}::test_weight_norm_recomputes_to_the_drawn_weight",
        f"{APPLY}::test_a_zero_weight_under_weight_norm_is_zero_and_can_learn",
        f"{APPLY}::test_spectral_norm_is_one_at_once",
    ),
    "protection is per parameter and to the byte": (
        f"{APPLY}::test_protected_tensors_are_byte_identical",
        f"{SPEC}::test_only_the_new_head_is_filled_and_the_rest_is_byte_identical",
    ),
    "lazy and meta models": (
        f"{APPLY}::test_lazy_model_is_refused_with_what_to_do",
        f"{APPLY}::test_meta_model_is_refused_and_filled_after_to_empty",
    ),
    "of quantised layers only adapters are filled": (f"{WHOLE}::test_of_an_integer_layer_only_the_adapter_is_filled",),
    "what was written is read back against what was declared": (f"{APPLY}::test_a_scaling_that_did_not_run_is_caught",),
    "bugs of large projects are found where they are planted": (PLANTED,),
}


@functools.cache
def _names(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return frozenset(n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_"))


@pytest.mark.parametrize("fact", FACTS)
def test_every_fact_has_its_tests(fact: str) -> None:
    for named in FACTS[fact]:
        file, _, name = named.partition("::")
        assert _names(file) if name == "*" else name in _names(file), named


def test_torchs_default_has_a_sixth_of_hes_variance() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(400, 1000)
    found = float(layer.weight.detach().var()) * 400 / 2
    # The variance of n uniform draws scatters by √(4/5/n) of itself: .0014 here, six deviations allowed.
    assert abs(found - 1 / 6) < 6 * math.sqrt(0.8 / layer.weight.numel()) / 6


@pytest.mark.parametrize(("cut", "share"), [(2.0, 0.8796), (3.0, 0.9866)])
def test_a_cut_leaves_the_share_of_the_deviation_that_is_told(cut: float, share: float) -> None:
    assert abs(truncation_correction(cut) - share) < 5e-5
    drawn = torch.randn(2_000_000, generator=torch.Generator().manual_seed(1))
    # A deviation of n draws scatters by less than 1/√(2n), .0005 here.
    assert abs(float(drawn[drawn.abs() < cut].std()) - share) < 6 / math.sqrt(2 * len(drawn))


def test_a_deep_sigmoid_stack_trains_with_the_gain_of_its_variance_only() -> None:
    x = torch.randn(512, 16, generator=torch.Generator().manual_seed(2))
    y = x[:, :4].argmax(1)

    def stack() -> nn.Sequential:
        torch.manual_seed(3)
        hidden = (m for n in (16, *[64] * 7) for m in (nn.Linear(n, 64), nn.Sigmoid()))
        return nn.Sequential(*hidden, nn.Linear(64, 4))

    def trained(model: nn.Module) -> float:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(200):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    scheme = {s.name: s for s in initadvisor.propose(stack(), (x, y))}["rules_orthogonal"]
    ours = stack()
    scheme.apply(ours, seed=0)
    assert trained(stack()) > 0.95 * math.log(4)
    assert trained(ours) < 0.25 * math.log(4)
