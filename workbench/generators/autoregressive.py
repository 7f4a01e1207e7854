"""One causal transformer that draws an image's codes from its class and tells the class from its codes.

What UniCode2 (arXiv:2506.20214) does with a language model, made small: its vocabulary is the classes, two task markers
and the visual codes, and "text" is the class. Generation reads [GENERATE, class, v1 .. vL-1] and predicts v1 .. vL;
understanding reads [UNDERSTAND, v1 .. vL] and predicts the class.

Here: a code is predicted among the codes of its book alone, not among classes too; no language model, no projector MLP.
"""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.core.errors import UserError, unknown
from workbench.core.types import Objective
from workbench.generators.vocabulary import check_drawing, chunked_cross_entropy, sample_codes
from workbench.nn.transformer import Block, KVCache, init_weights

LOGITS = 2**26  # held at a time by the loss: 256 MB
BATCH = 512  # images at a time, where there is no training


class AR(nn.Module):
    """Codes one after another, in the tokenizer's order, each given the class and the codes before it."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What is known of the tokenizer's codes, the sizes, and how a code becomes a vector and a vector a code."""

        num_tokens: int  # L, of the tokenizer
        codebook_size: int  # K, of each of its codebooks
        dim: int  # d, of a codeword
        classes: int  # the null class of guidance comes on top
        num_codebooks: int = 1  # G; book i serves the i-th of G equal blocks of tokens
        width: int = 96
        depth: int = 4
        heads: int = 4
        drop_class: float = 0.1  # share of labels replaced by the null class in training
        understand: float = (
            0.5  # weight of telling the class, beside 1 of drawing the codes; 0: generation alone
        )
        head: Literal["free", "tied"] = (
            "free"  # logits: a weight for each code, or products with the codes' vectors
        )
        table: Literal["learned", "codebook"] = (
            "learned"  # codes' vectors: its own, or codewords that `adopt` brings
        )

        def __post_init__(self) -> None:
            for field in fields(self):
                value = getattr(self, field.name)
                if get_origin(field.type) is Literal and value not in get_args(field.type):
                    raise unknown(field.name, str(value), get_args(field.type))
                if field.type is int and value < 1:
                    raise UserError(f"{field.name} is {value}; it must be at least 1.")
            if self.num_tokens % self.num_codebooks:
                raise UserError(
                    f"{self.num_tokens} tokens do not divide into {self.num_codebooks} codebooks of equal blocks."
                )
            if self.width % self.heads:
                raise UserError(f"width {self.width} does not divide into {self.heads} heads.")
            if not 0 <= self.drop_class <= 1:
                raise UserError(f"drop_class is {self.drop_class}; it must lie between 0 and 1.")
            if not 0 <= self.understand < float("inf"):
                raise UserError(f"understand is {self.understand}; it must not be below 0.")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, width = config, config.width
        wide, rows = (
            width if config.table == "learned" else config.dim,
            config.num_codebooks * config.codebook_size,
        )
        self.project_table = nn.Linear(wide, width) if config.table == "codebook" else nn.Identity()
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self.to_codes = nn.Linear(width, rows if config.head == "free" else wide)
        self.to_class = nn.Linear(width, config.classes) if config.understand else None
        init_weights(self, config.depth)
        # A tied head gives every row a gradient, and then a sparse one would only be slower.
        sparse = config.table == "codebook" and config.head == "free"
        self.table = nn.Embedding(
            rows, wide, sparse=sparse
        )  # UniCode2's second table: row k is code k's vector
        self.register_buffer(
            "scale", torch.ones(())
        )  # of the table's rows, so that their entries have deviation 1
        self.words = nn.Embedding(
            config.classes + 3, width
        )  # classes, the null class, GENERATE, UNDERSTAND
        self.places = nn.Parameter(
            0.02 * torch.randn(config.num_tokens + 2, width)
        )  # of marker, class, codes
        for embedding in (self.words, self.table) if config.table == "learned" else (self.words,):
            nn.init.normal_(embedding.weight, std=0.02)

    prepares = ("table.", "scale")

    def prepare(self, data: Any, seed: int) -> None:
        """Before the first step: adopt the codebook that came with the codes, if the table is one of codewords."""
        if self.config.table == "codebook" and getattr(data, "codebook", None) is not None:
            self.adopt(data.codebook)

    @torch.no_grad()
    def adopt(self, codebook: Float[Tensor, "g k d"]) -> None:
        """Begin from a tokenizer's codewords: copies them into the table, whose rows then go on learning."""
        expected = (self.config.num_codebooks, self.config.codebook_size, self.config.dim)
        if self.config.table != "codebook":
            raise UserError(
                "only a table of codewords adopts a codebook; make the model with table=codebook."
            )
        if tuple(codebook.shape) != expected:
            got, made = (" x ".join(map(str, shape)) for shape in (codebook.shape, expected))
            raise UserError(
                f"the codebook is {got} (books, codes, channels); this model was made for {made}."
            )
        self.table.weight.copy_(rearrange(codebook, "g k d -> (g k) d"))
        self.scale.copy_(1 / codebook.float().std(correction=0).clamp(min=1e-6))

    def objective(self, codes: Int[Tensor, "b n"], labels: Int[Tensor, " b"]) -> Objective:
        """Mean cross-entropy of a code, in nats (log K for one who knows nothing), and the weighted one of the class.

        Every image is drawn and told.
        """
        self._check(codes)
        dropped = torch.rand(len(labels), device=labels.device) < self.config.drop_class
        rows = self._to_draw(codes[:, :-1], torch.where(dropped, self.config.classes, labels))
        if self.to_class is None:
            return Objective({"generate": self._cross_entropy(self._mixed(rows)[:, 1:], codes)})
        drawing, telling = self._mixed(torch.cat([rows, self._to_tell(codes)])).chunk(
            2
        )  # equally long
        told = F.cross_entropy(self.to_class(telling[:, -1]).float(), labels.long())
        terms = {
            "generate": self._cross_entropy(drawing[:, 1:], codes),
            "understand": self.config.understand * told,
        }
        return Objective(terms)

    def forward(
        self, codes: Int[Tensor, "b n"], labels: Int[Tensor, " b"]
    ) -> Float[Tensor, "b n k"]:
        """Logits of every code given the class and the codes before it; label `classes` is the null class.

        For a look: holds n x K logits an image, which neither training nor drawing does.
        """
        self._check(codes)
        rows = self._mixed(self._to_draw(codes[:, :-1], labels))[:, 1:]
        return torch.cat(
            [
                self._logits(part, book)
                for book, part in enumerate(rows.chunk(self.config.num_codebooks, 1))
            ],
            dim=1,
        )

    @torch.no_grad()
    def classify(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b classes"]:
        """Logits of the class. Raises UserError for a model that was made to draw alone."""
        if self.to_class is None:
            raise UserError(
                "this model was made with understand=0: it draws codes, and cannot tell their class."
            )
        self._check(codes, whole=True)
        return torch.cat(
            [self.to_class(self._mixed(self._to_tell(part))[:, -1]) for part in codes.split(BATCH)]
        )

    @torch.no_grad()
    def bits(self, codes: Int[Tensor, "b n"], labels: Int[Tensor, " b"]) -> float:
        """Mean cross-entropy of these images' codes, in bits a token: log2 K for one who knows nothing."""
        self._check(codes, whole=True)
        nats = torch.zeros((), dtype=torch.float64, device=codes.device)
        for part, named in zip(codes.split(BATCH), labels.split(BATCH), strict=True):
            rows = self._mixed(self._to_draw(part[:, :-1], named))[:, 1:]
            nats += self._cross_entropy(rows, part) * len(part)
        return (nats / len(codes) / math.log(2)).item()

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
        """Draw one image's codes a label; `top_k` 0 and `top_p` 1 leave all codes to be drawn.

        `guidance` pushes the logits away from the null class's, at twice the cost; 1 is the conditional exactly. Raises
        UserError.
        """
        check_drawing(temperature=temperature, top_k=top_k, top_p=top_p)
        self._check_labels(labels)
        if guidance != 1 and not self.config.drop_class:
            raise UserError(
                "this model was made with drop_class=0 and knows no null class; draw with guidance 1."
            )
        generator = torch.Generator(labels.device).manual_seed(seed)
        both = (
            labels
            if guidance == 1
            else torch.cat([labels, torch.full_like(labels, self.config.classes)])
        )
        pasts, drawn = (
            [KVCache() for _ in self.blocks],
            labels.new_zeros(len(labels), 0, dtype=torch.int64),
        )
        rows = self._to_draw(drawn.new_zeros(len(both), 0), both)
        for place in range(self.config.num_tokens):
            last = self._mixed(rows, pasts)[:, -1:]
            logits = self._logits(
                last, place * self.config.num_codebooks // self.config.num_tokens
            )[:, 0]
            if guidance != 1:
                conditional, null = logits.chunk(2)
                logits = null + guidance * (conditional - null)
            code = sample_codes(
                logits, generator, temperature=temperature, top_k=top_k, top_p=top_p
            )
            drawn = torch.cat([drawn, rearrange(code, "b -> b 1")], dim=1)
            rows = self._seen(drawn, since=place).repeat(1 if guidance == 1 else 2, 1, 1)
        return drawn

    def _to_draw(
        self, codes: Int[Tensor, "b m"], labels: Int[Tensor, " b"]
    ) -> Float[Tensor, "b t width"]:
        """The rows [GENERATE, class, codes]."""
        words = torch.stack([torch.full_like(labels, self.config.classes + 1), labels], dim=1)
        return torch.cat([self.words(words) + self.places[:2], self._seen(codes)], dim=1)

    def _to_tell(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b t width"]:
        """The rows [UNDERSTAND, codes], each code at the place that it has when it is drawn."""
        marker = (
            self.words(codes.new_full((len(codes), 1), self.config.classes + 2)) + self.places[:1]
        )
        return torch.cat([marker, self._seen(codes)], dim=1)

    def _seen(self, codes: Int[Tensor, "b m"], since: int = 0) -> Float[Tensor, "b t width"]:
        """The vectors of the first m codes, from one on."""
        at = torch.arange(since, codes.shape[1], device=codes.device)
        book = at * self.config.num_codebooks // self.config.num_tokens
        vectors = self.table(codes[:, since:] + self.config.codebook_size * book) * self.scale
        return self.project_table(vectors) + self.places[2 + at]

    def _mixed(
        self, rows: Float[Tensor, "b t width"], pasts: list[KVCache] | None = None
    ) -> Float[Tensor, "b t width"]:
        for block, past in zip(self.blocks, pasts or [None] * len(self.blocks), strict=True):
            rows = block(rows, causal=True, past=past)
        return self.norm(rows)

    def _head(
        self, rows: Float[Tensor, "b t width"], book: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What a book's logits are made of: queries (b, t, e), one weight a code (K, e), and a bias (K), if free."""
        mine = slice(book * self.config.codebook_size, (book + 1) * self.config.codebook_size)
        if self.config.head == "free":
            return rows, self.to_codes.weight[mine], self.to_codes.bias[mine]
        queries, weight = self.to_codes(rows), self.table.weight[mine]
        if (
            self.config.table == "codebook"
        ):  # of any scale; logits shall begin small, as those of the others do
            queries = queries * self.scale / weight.shape[1] ** 0.5
        return queries, weight, None

    def _logits(self, rows: Float[Tensor, "b t width"], book: int) -> Float[Tensor, "b t k"]:
        return F.linear(*self._head(rows, book))

    def _cross_entropy(
        self, rows: Float[Tensor, "b n width"], codes: Int[Tensor, "b n"]
    ) -> Float[Tensor, ""]:
        books, chunk, losses = (
            self.config.num_codebooks,
            max(1, LOGITS // self.config.codebook_size),
            [],
        )
        for book, (part, mine) in enumerate(
            zip(rows.chunk(books, dim=1), codes.chunk(books, dim=1), strict=True)
        ):
            queries, weight, bias = self._head(part, book)
            flat, targets = (
                rearrange(queries, "b n e -> (b n) e"),
                rearrange(mine, "b n -> (b n)").long(),
            )
            losses.append(chunked_cross_entropy(flat, weight, targets, bias=bias, chunk=chunk))
        return torch.stack(losses).mean()  # blocks are equally long

    def _check(self, codes: Tensor, *, whole: bool = False) -> None:
        """Refuse codes of another tokenizer; their range, for which a GPU must be waited for, only where `whole`."""
        if codes.shape[1] != self.config.num_tokens:
            raise UserError(
                f"images have {codes.shape[1]} codes; this model was made for {self.config.num_tokens}."
            )
        if (
            whole
            and len(codes)
            and not 0 <= int(codes.min()) <= int(codes.max()) < self.config.codebook_size
        ):
            wrong = codes.max() if codes.min() >= 0 else codes.min()
            raise UserError(
                f"code {wrong} in a codebook of {self.config.codebook_size}. Do both come from the same run?"
            )

    def _check_labels(self, labels: Tensor) -> None:
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.config.classes:
            raise UserError(
                f"labels must lie in 0..{self.config.classes - 1}; got {labels.min()} to {labels.max()}."
            )
