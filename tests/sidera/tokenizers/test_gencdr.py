"""GenCDR's tokenizer at inference: two ways, a router between them, and domains that it never saw."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sidera.errors import TokenizerError
from sidera.items.assignment import assign_sids
from sidera.tokenizers import load_tokenizer, save_tokenizer, tokenizer_digest
from sidera.tokenizers.gencdr import EncoderAdapters, GenCdr, ItemRouter
from sidera.tokenizers.residual import CHUNK_ROWS
from sidera.tokenizers.rqvae import RqVae, multilayer_perceptron

DOMAINS = ("books", "films")


def random_gencdr(
    domains: tuple[str, ...] = DOMAINS,
    router_hidden: int | None = 7,
    sizes: tuple[int, ...] = (8, 5, 16),
    dim: int = 48,
) -> GenCdr:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = GenCdr(
            dim, sizes, 12, [24], domains, adapter_rank=4, adapter_alpha=6.0, router_hidden=router_hidden
        )
        for codebook in tokenizer.quantiser.codebooks:
            torch.nn.init.normal_(codebook, std=0.3)
        tokenizer.shift_D.normal_()
        tokenizer.scale.fill_(0.7)
        if tokenizer.adapters is not None:
            for domain in range(len(domains)):
                for up in of_adapter(tokenizer.adapters, domain, "up"):
                    torch.nn.init.normal_(up, std=0.3)
        if isinstance(tokenizer.router, ItemRouter):
            torch.nn.init.normal_(tokenizer.router.output.weight)
    return tokenizer.eval().requires_grad_(False)


def of_adapter(adapters: EncoderAdapters, domain: int, kind: str) -> list[torch.Tensor]:
    """``down`` or ``up`` of each layer, of one domain."""
    named = adapters.of_domain[domain].named_parameters()
    return [parameter for name, parameter in named if name.startswith(f"{kind}.")]


def random_vectors(items: int, dim: int = 48) -> torch.Tensor:
    return torch.randn(items, dim, generator=torch.Generator().manual_seed(1))


def universal_part(tokenizer: GenCdr) -> RqVae:
    rqvae = RqVae(tokenizer.dim, tokenizer.codebook_sizes, tokenizer.latent_dim, tokenizer.hidden_sizes)
    rqvae.load_state_dict({name: tokenizer.state_dict()[name] for name in rqvae.state_dict()})
    return rqvae.eval()


@pytest.mark.parametrize(("domain", "number"), [("books", 0), ("films", 1)])
def test_a_known_domain_quantises_what_the_definition_of_both_ways_and_the_router_gives(
    domain: str, number: int
) -> None:
    tokenizer = random_gencdr()
    assert tokenizer.adapters is not None
    assert isinstance(tokenizer.router, ItemRouter)
    vectors = random_vectors(9)
    universal = adapted = ((vectors - tokenizer.shift_D) / 0.7).double()
    downs, ups = (of_adapter(tokenizer.adapters, number, kind) for kind in ("down", "up"))
    for layer, down, up in zip((0, 2), downs, ups, strict=True):
        linear = tokenizer.encoder[layer]
        assert isinstance(linear, torch.nn.Linear)
        weight, bias = linear.weight.double(), linear.bias.double()
        changed = weight + 6.0 / 4 * up.double() @ down.double()
        universal, adapted = universal @ weight.T + bias, adapted @ changed.T + bias
        if layer == 0:
            universal, adapted = universal.relu(), adapted.relu()
    router = tokenizer.router.double()
    hidden = torch.relu(torch.cat([universal, adapted], dim=1) @ router.hidden.weight.T + router.hidden.bias)
    mean = (hidden @ router.bottleneck.weight.T + router.bottleneck.bias)[:, :12]
    share = torch.sigmoid(mean @ router.output.weight.T + router.output.bias)
    expected = (1 - share) * universal + share * adapted
    router.float()
    torch.testing.assert_close(tokenizer.latents(vectors, domain).double(), expected, rtol=1e-4, atol=1e-5)
    routes = tokenizer.routes(vectors, domain)
    torch.testing.assert_close(routes["domain"].double(), share[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(routes["universal"] + routes["domain"], torch.ones(9))
    assert float(share.std()) > 0.01


def test_a_domain_that_it_never_saw_takes_the_universal_way_bit_for_bit() -> None:
    tokenizer, vectors = random_gencdr(), random_vectors(300)
    rqvae = universal_part(tokenizer)
    assert torch.equal(tokenizer.latents(vectors, "music"), rqvae.latents(vectors, "music"))
    assert torch.equal(tokenizer.encode(vectors, "music"), rqvae.encode(vectors, "music"))
    assert not torch.equal(tokenizer.encode(vectors, "books"), rqvae.encode(vectors, "books"))
    assert not torch.equal(tokenizer.encode(vectors, "books"), tokenizer.encode(vectors, "films"))
    routes = tokenizer.routes(vectors, "music")
    assert torch.equal(routes["universal"], torch.ones(300))
    assert torch.equal(routes["domain"], torch.zeros(300))


def test_without_a_router_every_item_of_a_known_domain_is_half_of_each_way() -> None:
    tokenizer, vectors = random_gencdr(router_hidden=None), random_vectors(9)
    assert torch.equal(tokenizer.routes(vectors, "books")["domain"], torch.full((9,), 0.5))
    assert not any(name.startswith("router.") for name in tokenizer.state_dict())
    inputs = tokenizer.standardise(vectors)
    assert tokenizer.adapters is not None
    half = (tokenizer.encoder(inputs) + tokenizer.adapters(tokenizer.encoder, inputs, {0: 9})) / 2
    torch.testing.assert_close(tokenizer.latents(vectors, "books"), half)


def test_without_domains_there_are_no_adapters_and_no_router() -> None:
    tokenizer, vectors = random_gencdr(domains=()), random_vectors(9)
    assert set(tokenizer.state_dict()) == set(universal_part(tokenizer).state_dict())
    assert torch.equal(tokenizer.latents(vectors, "books"), universal_part(tokenizer).latents(vectors, "books"))


def test_new_adapters_change_nothing_and_hang_on_every_linear_layer() -> None:
    encoder = multilayer_perceptron([20, 10, 8, 6])
    adapters = EncoderAdapters(encoder, 3, rank=4, alpha=2.0)
    vectors = random_vectors(9, 20)
    for domain in range(3):
        assert torch.equal(adapters(encoder, vectors, {domain: 9}), encoder(vectors))
        assert [down.shape for down in of_adapter(adapters, domain, "down")] == [(4, 20), (4, 10), (4, 8)]
        assert [up.shape for up in of_adapter(adapters, domain, "up")] == [(10, 4), (8, 4), (6, 4)]
    for up in of_adapter(adapters, 1, "up"):
        torch.nn.init.normal_(up)
        assert not torch.equal(adapters(encoder, vectors, {1: 9}), encoder(vectors))
        assert torch.equal(adapters(encoder, vectors, {2: 9}), encoder(vectors))
        torch.nn.init.zeros_(up)


def test_items_of_several_domains_at_once_get_what_each_domain_alone_gives() -> None:
    tokenizer, vectors = random_gencdr(), random_vectors(9)
    assert tokenizer.adapters is not None
    mixed = tokenizer.adapters(tokenizer.encoder, vectors, {1: 4, 0: 5})
    films = tokenizer.adapters(tokenizer.encoder, vectors[:4], {1: 4})
    books = tokenizer.adapters(tokenizer.encoder, vectors[4:], {0: 5})
    torch.testing.assert_close(mixed, torch.cat([films, books]))


@pytest.mark.parametrize("domain", ["books", "films", "music"])
@pytest.mark.parametrize("router_hidden", [None, 128])
def test_routes_latents_and_codes_of_a_batch_are_those_of_its_items_one_by_one(
    domain: str, router_hidden: int | None
) -> None:
    tokenizer = random_gencdr(router_hidden=router_hidden, sizes=(256, 256), dim=384)
    vectors = random_vectors(CHUNK_ROWS + 37, 384)
    singles = vectors.split(1)
    for method in (tokenizer.encode, tokenizer.latents, lambda rows, name: tokenizer.routes(rows, name)["domain"]):
        assert torch.equal(method(vectors, domain), torch.cat([method(vector, domain) for vector in singles]))


@pytest.mark.parametrize(
    ("domains", "router_hidden"), [(DOMAINS, 7), (DOMAINS, None), ((), 7)], ids=["full", "no router", "no adapters"]
)
def test_a_saved_and_loaded_tokenizer_knows_the_same_domains_and_gives_the_same(
    domains: tuple[str, ...], router_hidden: int | None, tmp_path: Path
) -> None:
    tokenizer, vectors = random_gencdr(domains, router_hidden), random_vectors(60)
    save_tokenizer(tokenizer, tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, GenCdr)
    assert loaded.config() == tokenizer.config()
    assert tokenizer_digest(loaded) == tokenizer_digest(tokenizer)
    for domain in (*DOMAINS, "music"):
        assert torch.equal(loaded.latents(vectors, domain), tokenizer.latents(vectors, domain))
        assert torch.equal(loaded.routes(vectors, domain)["domain"], tokenizer.routes(vectors, domain)["domain"])


@pytest.mark.parametrize("field", ["dim", "domains", "adapter_rank", "router_hidden"])
def test_a_config_without_a_field_is_refused(field: str, tmp_path: Path) -> None:
    save_tokenizer(random_gencdr(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config[field]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(TokenizerError, match=f"no field '{field}'"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("domain", ["books", "music"])
def test_routes_of_vectors_with_nan_are_refused_by_row(domain: str) -> None:
    vectors = random_vectors(9)
    vectors[4, 0] = float("nan")
    with pytest.raises(TokenizerError, match="rows 4 hold NaN"):
        random_gencdr().routes(vectors, domain)


@pytest.mark.parametrize("domain", ["books", "music"])
def test_every_item_gets_a_sid_of_its_own(domain: str) -> None:
    tokenizer = random_gencdr(sizes=(4, 4, 16))
    sids, _ = assign_sids(tokenizer, random_vectors(200).numpy(), domain)
    assert len(np.unique(sids, axis=0)) == 200
