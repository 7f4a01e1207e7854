"""An autoregressive transformer over codes that generates images and predicts their classes.

UniCode2 (arXiv:2506.20214) does this with a language model; here it is small. The vocabulary is the
classes, two task markers and the visual codes. The class takes the place of the text. Generation
reads [GENERATE, class, v1 .. vL-1] and predicts v1 .. vL; understanding reads
[UNDERSTAND, v1 .. vL] and predicts the class.

Here: a code is predicted among the codes of its codebook alone, not among classes too; there is no
language model and no projector MLP.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, get_args, get_origin

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.core.batch_shares import item_draws
from workbench.core.counted import counted
from workbench.core.errors import UserError, unknown
from workbench.core.types import Objective, Tokens
from workbench.generators.base import EncodedImages, Generator, check_guidance
from workbench.generators.vocabulary import (
    check_sampling_options,
    chunked_cross_entropy,
    sample_codes,
)
from workbench.nn.transformer import Block, KVCache, init_weights

MAX_LOGITS = 2**26  # logits in memory at a time in the loss: 256 MB
EVAL_BATCH = 512  # images per batch outside training


class AR(Generator):
    """Generate codes one after another, each given the class and the codes before it."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The shape of the tokenizer's codes, the sizes, and how codes become vectors and back.

        Attributes
        ----------
        num_tokens : int
            Tokens per image; those of the tokenizer.
        codebook_size : int
            Codewords of each codebook of the tokenizer.
        dim : int
            Channels of a codeword of the tokenizer.
        classes : int
            Number of classes, without the null class of guidance.
        num_codebooks : int
            Codebooks of the tokenizer; the i-th serves the i-th of equal blocks of tokens.
        width : int
            Channels of the transformer.
        depth : int
            Blocks of the transformer.
        heads : int
            Attention heads.
        drop_class : float
            Fraction of the labels that are replaced by the null class in training.
        understand : float
            Weight of the classification loss; 0 trains generation alone.
        head : {"free", "tied"}
            Logits from one weight vector per code (free), or from products with the vectors of the
            codes (tied).
        table : {"learned", "codebook"}
            Vectors of the codes: learned from scratch, or the codewords of the tokenizer.
        """

        num_tokens: int
        codebook_size: int
        dim: int
        classes: int
        num_codebooks: int = 1
        width: int = 96
        depth: int = 4
        heads: int = 4
        drop_class: float = 0.1
        understand: float = 0.5
        head: Literal["free", "tied"] = "free"
        table: Literal["learned", "codebook"] = "learned"

        def __post_init__(self) -> None:
            for field in fields(self):
                value = getattr(self, field.name)
                if get_origin(field.type) is Literal and value not in get_args(field.type):
                    raise unknown(field.name, str(value), get_args(field.type))
                if field.type is int and value < 1:
                    raise UserError(f"{field.name} must be at least 1, got {value}.")
            if self.num_tokens % self.num_codebooks:
                raise UserError(
                    f"num_tokens must be a multiple of num_codebooks, got {self.num_tokens} tokens"
                    f" and {self.num_codebooks} codebooks."
                )
            if self.width % self.heads:
                raise UserError(
                    f"width must be a multiple of heads, got width {self.width} and"
                    f" {self.heads} heads."
                )
            if not 0 <= self.drop_class <= 1:
                raise UserError(f"drop_class must be between 0 and 1, got {self.drop_class}.")
            if not 0 <= self.understand < float("inf"):
                raise UserError(f"understand must be at least 0, got {self.understand}.")

    consumes: ClassVar[Literal["latents", "codes"]] = "codes"
    set_by_tokenizer = ("num_tokens", "codebook_size", "dim", "classes", "num_codebooks")
    prepared_state = ("table.", "scale")

    config: Config
    scale: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.width
        table_dim = width if config.table == "learned" else config.dim
        num_rows = config.num_codebooks * config.codebook_size
        self.project_table = (
            nn.Linear(table_dim, width) if config.table == "codebook" else nn.Identity()
        )
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self.to_codes = nn.Linear(width, num_rows if config.head == "free" else table_dim)
        self.to_class = nn.Linear(width, config.classes) if config.understand else None
        init_weights(self, config.depth)
        # A tied head gives every row a gradient; sparse gradients would only be slower.
        sparse = config.table == "codebook" and config.head == "free"
        # UniCode2's second table: row k is the vector of code k.
        self.table = nn.Embedding(num_rows, table_dim, sparse=sparse)
        # Scales the table's rows so that their entries have standard deviation 1.
        self.register_buffer("scale", torch.ones(()))
        # The classes, the null class, GENERATE and UNDERSTAND.
        self.words = nn.Embedding(config.classes + 3, width)
        # Position embeddings of the marker, the class and the codes.
        self.places = nn.Parameter(0.02 * torch.randn(config.num_tokens + 2, width))
        tables = (self.words, self.table) if config.table == "learned" else (self.words,)
        for embedding in tables:
            nn.init.normal_(embedding.weight, std=0.02)

    @property
    def supports_guidance(self) -> bool:
        """True if there are several classes, and labels were dropped in training."""
        return super().supports_guidance and self.config.drop_class > 0

    @classmethod
    def settings_from(cls, data: EncodedImages, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the shape of the codes and of the codebook."""
        if data.codebook is None:
            raise UserError("An autoregressive generator needs codes and their codebook.")
        num_codebooks, codebook_size, dim = data.codebook.shape
        return {
            "num_tokens": data.rows.shape[1],
            "codebook_size": codebook_size,
            "dim": dim,
            "classes": int(data.labels.max()) + 1,
            "num_codebooks": num_codebooks,
        }

    def prepare(self, data: Any, seed: int) -> None:
        """Copy the tokenizer's codebook into the table before the first step, if it is one."""
        if self.config.table != "codebook" or not isinstance(data, EncodedImages):
            return
        if data.codebook is not None:
            self.adopt(data.codebook)

    @torch.no_grad()
    def adopt(self, codebook: Float[Tensor, "g k d"]) -> None:
        """Copy a tokenizer's codewords into the table, whose rows are then trained.

        Raises
        ------
        UserError
            If the table is not one of codewords, or the codebook has another shape.
        """
        if self.config.table != "codebook":
            raise UserError(
                f"A codebook can be adopted only with table=codebook, got {self.config.table}."
            )
        expected = (self.config.num_codebooks, self.config.codebook_size, self.config.dim)
        if tuple(codebook.shape) != expected:
            got, made = (" x ".join(map(str, shape)) for shape in (codebook.shape, expected))
            raise UserError(f"The codebook must be {made} (codebooks, codes, channels), got {got}.")
        self.table.weight.copy_(rearrange(codebook, "g k d -> (g k) d"))
        self.scale.copy_(1 / codebook.float().std(correction=0).clamp(min=1e-6))

    def objective(self, codes: Int[Tensor, "b n"], labels: Int[Tensor, " b"], /) -> Objective:
        """Compute the mean cross-entropy of a code, in nats, and the weighted one of the class.

        Every image is used for both tasks. An untrained model has a generation loss of log K.
        """
        self._check_codes(codes)
        uniform = item_draws(torch.rand, (len(labels),), device=labels.device)
        dropped = uniform < self.config.drop_class
        conditions = torch.where(dropped, self.config.classes, labels)
        rows = self._generation_rows(codes[:, :-1], conditions)
        if self.to_class is None:
            outputs = self._run_blocks(rows)[:, 1:]
            return Objective({"generate": self._cross_entropy(outputs, codes)})
        # Both tasks have sequences of equal length, so they share one batch.
        batch = torch.cat([rows, self._understanding_rows(codes)])
        generation, understanding = self._run_blocks(batch).chunk(2)
        class_logits = self.to_class(understanding[:, -1]).float()
        class_loss = F.cross_entropy(class_logits, labels.long())
        terms = {
            "generate": self._cross_entropy(generation[:, 1:], codes),
            "understand": self.config.understand * class_loss,
        }
        return Objective(terms)

    def forward(
        self, codes: Int[Tensor, "b n"], labels: Int[Tensor, " b"]
    ) -> Float[Tensor, "b n k"]:
        """Compute the logits of every code given the class and the codes before it.

        Label `classes` is the null class. Needs memory for n x K logits per image, unlike training
        and sampling.
        """
        self._check_codes(codes)
        rows = self._run_blocks(self._generation_rows(codes[:, :-1], labels))[:, 1:]
        blocks = rows.chunk(self.config.num_codebooks, 1)
        return torch.cat(
            [self._logits(block, codebook_index) for codebook_index, block in enumerate(blocks)],
            dim=1,
        )

    @torch.no_grad()
    def classify(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b classes"]:
        """Compute the logits of the class.

        Raises
        ------
        UserError
            If the model was built with `understand=0`.
        """
        if self.to_class is None:
            raise UserError("A model with understand=0 cannot predict classes; train another one.")
        self._check_codes(codes, check_range=True)
        logits = []
        for part in codes.split(EVAL_BATCH):
            rows = self._run_blocks(self._understanding_rows(part))
            logits.append(self.to_class(rows[:, -1]))
        return torch.cat(logits)

    @torch.no_grad()
    def bits(self, codes: Int[Tensor, "b n"], labels: Int[Tensor, " b"]) -> float:
        """Compute the mean cross-entropy of these images' codes, in bits per token.

        A model that assigns equal probabilities needs log2 K bits.
        """
        self._check_codes(codes, check_range=True)
        nats = torch.zeros((), dtype=torch.float64, device=codes.device)
        for part, classes in zip(codes.split(EVAL_BATCH), labels.split(EVAL_BATCH), strict=True):
            rows = self._run_blocks(self._generation_rows(part[:, :-1], classes))[:, 1:]
            nats += self._cross_entropy(rows, part) * len(part)
        return (nats / len(codes) / math.log(2)).item()

    def sample(
        self,
        labels: Int[Tensor, " b"],
        *,
        codebook: Float[Tensor, "g k d"] | None = None,
        guidance: float = 1.0,
        steps: int | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> Tokens:
        """Sample the codes of one image per label and look up their codewords.

        The number of steps is always the number of tokens. See `Generator.sample` and `generate`.
        """
        if codebook is None:
            raise UserError("An autoregressive generator needs the tokenizer's codebook to sample.")
        codes = self.generate(
            labels,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            guidance=guidance,
            seed=seed,
        )
        num_tokens = codes.shape[1]
        codewords = codebook.to(codes.device).repeat_interleave(num_tokens // len(codebook), dim=0)
        latents = codewords[torch.arange(num_tokens, device=codes.device), codes]
        return Tokens(latents, codes)

    @torch.no_grad()
    def generate(
        self,
        labels: Int[Tensor, " b"],
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        guidance: float = 1.0,
        seed: int = 0,
    ) -> Int[Tensor, "b n"]:
        """Sample the codes of one image per label.

        Parameters
        ----------
        labels : Tensor of int, shape (batch,)
            Classes.
        temperature : float
            Divides the logits; must be above 0.
        top_k, top_p : int, float
            Sample among the k most probable codes (0: all) and the fewest whose probability
            reaches p (1: all).
        guidance : float
            Scale by which the logits move away from the null class's, at twice the cost; 1 is the
            conditional exactly.
        seed : int
            Seed of the random numbers.

        Raises
        ------
        UserError
            If an option or a label is out of range, or guidance is requested from a model that was
            trained with `drop_class=0`.
        """
        check_sampling_options(temperature=temperature, top_k=top_k, top_p=top_p)
        self._check_labels(labels)
        check_guidance(guidance, self.config.drop_class)
        is_guided = guidance != 1
        generator = torch.Generator(labels.device).manual_seed(seed)
        conditions = labels
        if is_guided:
            conditions = torch.cat([labels, torch.full_like(labels, self.config.classes)])
        caches = [KVCache() for _ in self.blocks]
        codes = labels.new_zeros(len(labels), 0, dtype=torch.int64)
        rows = self._generation_rows(codes.new_zeros(len(conditions), 0), conditions)
        for position in range(self.config.num_tokens):
            last = self._run_blocks(rows, caches)[:, -1:]
            codebook_index = position * self.config.num_codebooks // self.config.num_tokens
            logits = self._logits(last, codebook_index)[:, 0]
            if is_guided:
                conditional, null = logits.chunk(2)
                logits = null + guidance * (conditional - null)
            code = sample_codes(
                logits, generator, temperature=temperature, top_k=top_k, top_p=top_p
            )
            codes = torch.cat([codes, rearrange(code, "b -> b 1")], dim=1)
            rows = self._code_rows(codes, start=position).repeat(2 if is_guided else 1, 1, 1)
        return codes

    def evaluate(
        self, tokens: Tokens, labels: Int[Tensor, " b"], *, seed: int = 0
    ) -> dict[str, np.ndarray]:
        """Return `code_bits`, float32 (1,), and `predicted`, int64 (b,), if classes are learned."""
        if tokens.codes is None:
            raise UserError("An autoregressive generator is evaluated on codes; there are none.")
        arrays = {"code_bits": np.array([self.bits(tokens.codes, labels)], np.float32)}
        if self.to_class is not None:
            arrays["predicted"] = self.classify(tokens.codes).argmax(dim=1).cpu().numpy()
        return arrays

    def sampling_config(self) -> dict[str, Any]:
        """Return the solver, the number of steps and the temperature."""
        return {
            "solver": "autoregressive",
            "steps": self.config.num_tokens,
            "temperature": 1.0,
        }

    def _generation_rows(
        self, codes: Int[Tensor, "b m"], labels: Int[Tensor, " b"]
    ) -> Float[Tensor, "b t width"]:
        """Embed [GENERATE, class, codes]."""
        marker = torch.full_like(labels, self.config.classes + 1)
        prompt = self.words(torch.stack([marker, labels], dim=1)) + self.places[:2]
        return torch.cat([prompt, self._code_rows(codes)], dim=1)

    def _understanding_rows(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b t width"]:
        """Embed [UNDERSTAND, codes]; each code has the position that it has in generation."""
        marker = codes.new_full((len(codes), 1), self.config.classes + 2)
        prompt = self.words(marker) + self.places[:1]
        return torch.cat([prompt, self._code_rows(codes)], dim=1)

    def _code_rows(self, codes: Int[Tensor, "b m"], start: int = 0) -> Float[Tensor, "b t width"]:
        """Embed the codes from position `start` on."""
        positions = torch.arange(start, codes.shape[1], device=codes.device)
        codebook_indices = positions * self.config.num_codebooks // self.config.num_tokens
        vectors = (
            self.table(codes[:, start:] + self.config.codebook_size * codebook_indices) * self.scale
        )
        return self.project_table(vectors) + self.places[2 + positions]

    def _run_blocks(
        self, rows: Float[Tensor, "b t width"], caches: Sequence[KVCache] | None = None
    ) -> Float[Tensor, "b t width"]:
        for index, block in enumerate(self.blocks):
            rows = block(rows, causal=True, past=None if caches is None else caches[index])
        return self.norm(rows)

    def _output_layer(
        self, rows: Float[Tensor, "b t width"], codebook_index: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return queries (b, t, e), weights (K, e) and, for a free head, biases (K,)."""
        size = self.config.codebook_size
        own_rows = slice(codebook_index * size, (codebook_index + 1) * size)
        if self.config.head == "free":
            return rows, self.to_codes.weight[own_rows], self.to_codes.bias[own_rows]
        queries = self.to_codes(rows)
        weight = self.table.weight[own_rows]
        if self.config.table == "codebook":
            # Codewords can have any scale; the first logits should be as small as a free head's.
            queries = queries * self.scale / weight.shape[1] ** 0.5
        return queries, weight, None

    def _logits(
        self, rows: Float[Tensor, "b t width"], codebook_index: int
    ) -> Float[Tensor, "b t k"]:
        return F.linear(*self._output_layer(rows, codebook_index))

    def _cross_entropy(
        self, rows: Float[Tensor, "b n width"], codes: Int[Tensor, "b n"]
    ) -> Float[Tensor, ""]:
        num_codebooks = self.config.num_codebooks
        chunk = max(1, MAX_LOGITS // self.config.codebook_size)
        row_blocks = rows.chunk(num_codebooks, dim=1)
        code_blocks = codes.chunk(num_codebooks, dim=1)
        losses = []
        for codebook_index in range(num_codebooks):
            queries, weight, bias = self._output_layer(row_blocks[codebook_index], codebook_index)
            flat_queries = rearrange(queries, "b n e -> (b n) e")
            targets = rearrange(code_blocks[codebook_index], "b n -> (b n)").long()
            loss = chunked_cross_entropy(flat_queries, weight, targets, bias=bias, chunk=chunk)
            losses.append(loss)
        return torch.stack(losses).mean()  # the blocks are equally long

    def _check_codes(self, codes: Tensor, *, check_range: bool = False) -> None:
        """Refuse codes of another tokenizer; checking their range waits for the GPU."""
        if codes.shape[1] != self.config.num_tokens:
            raise UserError(
                f"Images must have {counted(self.config.num_tokens, 'code')} each, got"
                f" {codes.shape[1]}."
            )
        if not check_range or not len(codes):
            return
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= self.config.codebook_size:
            wrong = low if low < 0 else high
            raise UserError(
                f"Codes must be below {self.config.codebook_size}, got {wrong}. Do the codes and"
                " the model come from the same run?"
            )

    def _check_labels(self, labels: Tensor) -> None:
        if not len(labels):
            return
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.config.classes:
            raise UserError(f"Labels must be in 0..{self.config.classes - 1}, got {low} to {high}.")
