"""Diagrams as the attention of Hugging Face models: small random ones, beside their own eager attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from napkin.language.errors import NapkinError
from tests.programs import ROOT

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SMALL = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    from napkin.integrations.transformers import register

    for name in ("llama", "gemma", "causal"):
        register(f"napkin_{name}", ROOT / "examples" / f"{name}.napkin")


def llama(attention: str, **options: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SMALL, **options, attn_implementation=attention)
    return transformers.LlamaForCausalLM(config).eval()


def gemma(attention: str) -> Any:
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        **SMALL,
        sliding_window=5,
        query_pre_attn_scalar=24,
        attn_logit_softcapping=3.0,
        attn_implementation=attention,
    )
    return transformers.Gemma2ForCausalLM(config).eval()


MODELS = {"llama": llama, "gemma": gemma}


def pair(name: str) -> tuple[Any, Any]:
    return MODELS[name]("eager"), MODELS[name](f"napkin_{name}")


def tokens(batch: int = 2, length: int = 19) -> torch.Tensor:
    return torch.randint(2, 97, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MODELS)
def test_the_logits_are_those_of_eager_attention(name: str) -> None:
    eager, ours = pair(name)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens()).logits, eager(tokens()).logits)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", MODELS)
def test_padded_sequences_give_the_same_where_they_are_real(name: str, side: str) -> None:
    eager, ours = pair(name)
    real = torch.ones(3, 19, dtype=torch.int64)
    padded = slice(0, 7) if side == "left" else slice(12, 19)
    real[1, padded] = 0
    with torch.no_grad():
        got, want = (model(tokens(3), attention_mask=real).logits for model in (ours, eager))
    torch.testing.assert_close(got[real.bool()], want[real.bool()])


@pytest.mark.parametrize("name", MODELS)
def test_generation_from_a_cache_is_the_same(name: str) -> None:
    eager, ours = pair(name)
    real = torch.ones(2, 19, dtype=torch.int64)
    real[0, :4] = 0
    options = {"attention_mask": real, "max_new_tokens": 12, "do_sample": False}
    got, want = (model.generate(tokens(), **options) for model in (ours, eager))
    assert got.shape == (2, 31)
    assert torch.equal(got, want)


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_gets_the_same_gradient(name: str) -> None:
    eager, ours = pair(name)
    for model in (eager, ours):
        model.train()
        model(tokens(), labels=tokens()).loss.backward()
    wanted = dict(eager.named_parameters())
    for each, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter.grad, wanted[each].grad, msg=each, rtol=1e-4, atol=1e-5
        )


def test_what_a_diagram_does_not_say_is_refused() -> None:
    with pytest.raises(NapkinError, match=r"scales its scores by 0\.204124"):
        gemma("napkin_causal")(tokens())
    with pytest.raises(NapkinError, match="padded on the left"):
        llama("napkin_causal")(tokens(), attention_mask=torch.ones(2, 19).triu(1)[:2])
    real = torch.ones(2, 19)
    real[1, 9] = 0
    with pytest.raises(NapkinError, match="in its middle"):
        llama("napkin_llama")(tokens(), attention_mask=real)
    with pytest.raises(NapkinError, match=r"drops 0\.5"):
        llama("napkin_llama", attention_dropout=0.5).train()(tokens())
    positions = torch.cat([torch.arange(9), torch.arange(10)])[None].expand(2, -1)
    with pytest.raises(NapkinError, match="more than causal"):
        llama("napkin_llama")(tokens(), position_ids=positions, use_cache=False)
    with pytest.raises(NapkinError, match="not at the last key"):
        llama("napkin_llama").generate(
            tokens(), max_new_tokens=3, do_sample=False, cache_implementation="static"
        )


def test_other_arguments_are_found_on_the_module() -> None:
    from napkin.integrations.transformers import register

    register("napkin_fading", ROOT / "examples" / "fading.napkin")
    model = llama("napkin_fading")
    with pytest.raises(NapkinError, match="LlamaAttention has `rate`"):
        model(tokens())
    for layer in model.model.layers:
        layer.self_attn.rate = torch.nn.Parameter(torch.full((4,), 0.1))
        layer.self_attn.sink = torch.nn.Parameter(torch.zeros(4))
    model.train()
    model(tokens(), labels=tokens()).loss.backward()
    for layer in model.model.layers:
        assert (layer.self_attn.rate.grad != 0).all()
        assert (layer.self_attn.sink.grad != 0).all()
