"""Evidence from arrays: the formats of their files, and what is refused."""

import io
import json
import pickle
import struct
import sys

import numpy as np
import pytest

import workbench as wb
from workbench import analysis
from workbench.analysis.latents.point_colors import ImageArrays, point_colors
from workbench.core.errors import NotApplicable, RunError, UserError
from workbench.storage import mapped_array
from workbench.storage.array_files import ARRAY_NAMES, read_array_files
from workbench.storage.evidence import Evidence
from workbench.storage.latent_stats import LatentStats

N = 60
RANDOM = np.random.default_rng(0)
GRID_LATENTS = RANDOM.normal(1, 2, (N, 6, 4, 4)).astype(np.float32)
TOKENS = GRID_LATENTS.reshape(N, 6, 16).transpose(0, 2, 1)
LABELS = RANDOM.integers(0, 3, N)
CODES = RANDOM.integers(0, 32, (N, 16))
IMAGES = RANDOM.integers(0, 256, (N, 8, 8, 3), np.uint8)


def write_safetensors(path, **arrays):
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def write_npz(path, **arrays):
    np.savez(path, **arrays)


def write_parquet(path, **arrays):
    import pyarrow as pa
    from pyarrow.parquet import write_table

    write_table(pa.table({name: pa.array(array.tolist()) for name, array in arrays.items()}), path)


WRITERS = {"safetensors": write_safetensors, "npz": write_npz, "parquet": write_parquet}


def write_shards(folder, sizes=(25, 35)):
    """Write the layout of LightningDiT's extract_features.py."""
    start = 0
    for i, size in enumerate(sizes):
        part = slice(start, start + size)
        write_safetensors(
            folder / f"latents_rank00_shard{i:03d}.safetensors",
            latents=GRID_LATENTS[part],
            latents_flip=GRID_LATENTS[part, :, :, ::-1],
            labels=LABELS[part],
        )
        start += size


# Formats


@pytest.mark.parametrize("suffix", WRITERS)
def test_arrays_of_one_file(tmp_path, suffix):
    path = tmp_path / f"anything.{suffix}"
    WRITERS[suffix](path, latents=GRID_LATENTS, labels=LABELS, codes=CODES.reshape(N, 4, 4))
    result = wb.evidence(path, codebook=32)
    np.testing.assert_array_equal(result.latents, TOKENS)
    np.testing.assert_array_equal(result.labels, LABELS)
    np.testing.assert_array_equal(result.codes, CODES)
    assert result.grid == (4, 4)
    assert result.codebook.shape == (1, 32, 0)
    assert {name: array.dtype for name, array in result.arrays().items()} == {
        "latents": np.float32,
        "codes": np.int32,
        "codebook": np.float32,
        "labels": np.int64,
    }


def test_npy_files_are_named_after_their_arrays(tmp_path):
    np.save(tmp_path / "latents.npy", TOKENS)
    np.save(tmp_path / "labels.npy", LABELS.astype(np.uint8))
    (tmp_path / "README.md").write_text("ignored")
    result = wb.evidence(tmp_path)
    np.testing.assert_array_equal(result.latents, TOKENS)
    np.testing.assert_array_equal(result.labels, LABELS)
    assert result.grid is None


def test_shards_of_lightningdit(tmp_path):
    import torch

    write_shards(tmp_path)
    mean = torch.from_numpy(GRID_LATENTS).mean((0, 2, 3), keepdim=True)
    torch.save({"mean": mean, "std": torch.ones(1, 6, 1, 1)}, tmp_path / "latents_stats.pt")
    result = wb.evidence(tmp_path, out=tmp_path / "run")
    np.testing.assert_array_equal(result.latents, TOKENS)
    np.testing.assert_array_equal(result.labels, LABELS)
    assert result.provenance["n"] == N
    assert wb.Run(tmp_path / "run").config.imported.scale.std == (1.0,) * 6
    np.testing.assert_allclose(
        result.provenance["latent_stats"]["channel_mean"], TOKENS.mean((0, 1)), rtol=1e-4
    )


def test_only_statistics_of_lightningdit_need_torch(tmp_path, monkeypatch):
    write_shards(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert wb.evidence(tmp_path, out=tmp_path / "run").latents.shape == TOKENS.shape
    (tmp_path / "latents_stats.pt").write_bytes(b"")
    with pytest.raises(UserError, match="torch"):
        wb.evidence(tmp_path)


def test_code_in_statistics_is_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'proof')!r}, 'w')",))

    write_shards(tmp_path)
    (tmp_path / "latents_stats.pt").write_bytes(pickle.dumps({"mean": Hostile()}, protocol=2))
    with pytest.raises(UserError, match=r"latents_stats\.pt"):
        wb.evidence(tmp_path)
    assert not (tmp_path / "proof").exists()


def test_parts_are_in_the_order_of_their_numbers(tmp_path):
    for number, start in ((2, 0), (10, 30)):
        np.save(tmp_path / f"codes_{number}.npy", CODES[start : start + 30])
    np.testing.assert_array_equal(wb.evidence(tmp_path).codes, CODES)


def test_parts_may_have_numbers_alone_as_names(tmp_path):
    for number, start in ((9, 0), (10, 30)):
        write_npz(tmp_path / f"{number}.npz", codes=CODES[start : start + 30])
    np.testing.assert_array_equal(wb.evidence(tmp_path).codes, CODES)


@pytest.mark.parametrize("suffix", ["npy", "safetensors"])
def test_large_arrays_are_memory_mapped_views(tmp_path, suffix):
    random = np.random.default_rng(0)
    latents = random.normal(size=(100, 8, 8, 8)).astype(np.float32)
    path = tmp_path / f"latents.{suffix}"
    if suffix == "npy":
        np.save(path, latents)
    else:
        write_safetensors(path, latents=latents)
    array = read_array_files(path).arrays["latents"].arrays[0]
    assert isinstance(array, np.memmap)
    assert np.shares_memory(wb.evidence(latents=array).latents, array)


def test_folders_with_one_file_per_image(tmp_path):
    """Latents of SiT's and DiT's trainers: one file per image, with an axis for the image."""
    for name, array in (("latents", GRID_LATENTS), ("labels", LABELS), ("codes", CODES)):
        (tmp_path / name).mkdir()
        for number in range(11):
            row = array[number] if name == "codes" else array[number : number + 1]
            np.save(tmp_path / name / f"{number}.npy", row)
    result = wb.evidence(tmp_path)
    np.testing.assert_array_equal(result.latents, TOKENS[:11])
    np.testing.assert_array_equal(result.labels, LABELS[:11])
    np.testing.assert_array_equal(result.codes, CODES[:11])
    with pytest.raises(UserError, match="subfolder"):
        wb.evidence(tmp_path / "latents")
    np.save(tmp_path / "latents" / "5.npy", GRID_LATENTS[5, :4])
    with pytest.raises(UserError, match=r"5\.npy"):
        wb.evidence(tmp_path)
    np.save(tmp_path / "latents.npy", GRID_LATENTS)
    with pytest.raises(UserError, match=r"latents\.npy"):
        wb.evidence(tmp_path)


def test_half_precision_becomes_float32(tmp_path):
    import torch
    from safetensors.torch import save_file

    for dtype in (torch.float16, torch.bfloat16):
        latents = torch.from_numpy(GRID_LATENTS).to(dtype)
        save_file({"latents": latents}, tmp_path / "latents.safetensors")
        result = wb.evidence(tmp_path)
        expected = latents.float().reshape(N, 6, 16).transpose(1, 2).numpy()
        assert result.latents.dtype == np.float32
        np.testing.assert_array_equal(result.latents, expected)


def test_large_parts_are_joined_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped_array, "MAX_MEMORY_BYTES", 0)
    write_shards(tmp_path)
    latents = wb.evidence(tmp_path).latents
    assert isinstance(latents, np.memmap)
    np.testing.assert_array_equal(latents, TOKENS)


def test_fixed_shape_tensors_of_parquet(tmp_path):
    import pyarrow as pa
    from pyarrow.parquet import write_table

    column = pa.FixedShapeTensorArray.from_numpy_ndarray(GRID_LATENTS)
    write_table(pa.table({"latents": column}), tmp_path / "a.parquet")
    np.testing.assert_array_equal(wb.evidence(tmp_path).latents, TOKENS)


def test_class_names_of_a_folder(tmp_path):
    write_shards(tmp_path)
    (tmp_path / "class_names.json").write_text('["cat", "dog", "owl"]')
    assert wb.evidence(tmp_path).names == ("cat", "dog", "owl")


# Conversions


def test_images_of_both_channel_orders_and_types():
    floats = IMAGES.astype(np.float32) / 255
    for images in (IMAGES, floats, np.moveaxis(IMAGES, -1, 1), np.moveaxis(floats, -1, 1)):
        np.testing.assert_array_equal(wb.evidence(images=images).images, IMAGES)


def test_tensors_are_accepted():
    import torch

    result = wb.evidence(latents=torch.from_numpy(GRID_LATENTS), labels=torch.from_numpy(LABELS))
    np.testing.assert_array_equal(result.latents, TOKENS)


def test_limit_draws_the_same_images_of_all_arrays(tmp_path):
    write_shards(tmp_path)
    result = wb.evidence(tmp_path, codes=CODES, codebook=32, limit=20)
    assert result.latents.shape == (20, 16, 6)
    rows = [int(np.flatnonzero((latents == TOKENS).all((1, 2)))[0]) for latents in result.latents]
    assert len(set(rows)) == 20
    np.testing.assert_array_equal(result.codes, CODES[rows])
    np.testing.assert_array_equal(result.labels, LABELS[rows])
    assert (result.provenance["n"], result.provenance["of"]) == (20, N)


def test_codebook_may_be_vectors_or_a_number():
    random = np.random.default_rng(0)
    table = random.normal(size=(32, 6)).astype(np.float32)
    np.testing.assert_array_equal(wb.evidence(codes=CODES, codebook=table).codebook, table[None])
    two = wb.evidence(codes=CODES, codebook=np.stack([table, table]))
    assert two.codebook.shape == (2, 32, 6)


def test_fingerprints_are_equal_for_equal_images_only():
    first = wb.evidence(images=IMAGES, latents=TOKENS)
    second = wb.evidence(images=IMAGES, codes=CODES)
    assert first.provenance["fingerprint"] == second.provenance["fingerprint"]
    without = [wb.evidence(latents=array) for array in (TOKENS, TOKENS + 1)]
    assert without[0].provenance["fingerprint"] != without[1].provenance["fingerprint"]


# Analyses

CASES = {
    "latents": {"latents": GRID_LATENTS},
    "codes": {"codes": np.where(CODES == 5, -1, CODES), "codebook": 32},
    "labeled latents": {"latents": TOKENS, "labels": LABELS},
    "images": {"images": IMAGES, "reconstructions": IMAGES // 2},
}


def every_analysis():
    """The names of all analyses; importing umap for the map takes seconds."""
    return [
        pytest.param(name, marks=pytest.mark.slow) if name == "latent_map" else name
        for name in analysis.analyses()
    ]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", every_analysis())
def test_every_analysis_gives_a_result_or_says_why_not(case, name):
    arrays = wb.evidence(**CASES[case])
    function = analysis.get(name)
    try:
        result = function(**arrays.kwargs_for(function))
    except NotApplicable:
        return
    assert len(result.table()) > 0
    assert result.summary()
    result.figure()


def test_checks_of_codes_alone_find_nothing_wrong():
    random = np.random.default_rng(0)
    codes = random.integers(-1, 32, (200, 16))  # -1 is padding
    result = analysis.get("checks")([wb.evidence(codes=codes, codebook=32)])
    assert not result.findings


def test_padding_has_the_color_of_other_codes():
    random = np.random.default_rng(0)
    codes = np.where(random.random((N, 16)) < 0.5, -1, CODES % 4)
    evidence = wb.evidence(latents=TOKENS, codes=codes, codebook=32)
    arrays = ImageArrays.from_evidence(evidence)
    names = point_colors("code", np.arange(N), arrays, seed=0).names
    expected = ["other" if code < 0 else str(code) for code in codes[:, 0]]
    assert list(names) == expected


# Refusals


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"codebook": 16},
        {"labels": LABELS},
        {"latents": TOKENS, "labels": LABELS[:-1]},
        {"latents": TOKENS, "images": IMAGES[:-1]},
        {"latents": GRID_LATENTS, "images": np.zeros((N, 10, 10, 3), np.uint8)},
        {"images": IMAGES, "reconstructions": np.zeros((N, 4, 4, 3), np.uint8)},
        {"codes": CODES, "codebook": 31},
        {"codes": CODES, "codebook": np.zeros((31, 4), np.float32)},
        {"codes": CODES, "codebook": np.zeros((3, 32, 4), np.float32)},
        {"codes": CODES, "codebook": np.zeros((32, 4), np.float32), "latents": TOKENS},
        {"codebook": np.zeros((32, 7), np.float32), "latents": GRID_LATENTS},
        {"codes": CODES, "codebook": 0},
        {"codes": CODES, "codebook": 10**12},
        {"codes": CODES, "codebook": 2.5},
        {"codes": CODES, "codebook": np.full((32, 4), np.nan)},
        {"codes": CODES, "codebook": np.zeros(32)},
        {"codes": CODES - 2, "codebook": 32},
        {"codes": CODES.astype(np.float32), "codebook": 32},
        {"codes": CODES.astype(np.int64) + 2**40},
        {"codes": CODES[:, 0]},
        {"codes": CODES[:, :8], "latents": TOKENS},
        {"codes": CODES.reshape(N, 2, 8), "latents": GRID_LATENTS},
        {"codes": CODES, "grid": (3, 5)},
        {"latents": GRID_LATENTS.transpose(0, 2, 3, 1), "grid": (4, 4)},
        {"latents": np.where(TOKENS > 6, np.nan, TOKENS)},
        {"latents": np.where(TOKENS > 6, np.inf, TOKENS)},
        {"latents": TOKENS.astype(np.float64) * 1e200},
        {"latents": np.ma.masked_greater(TOKENS, 0)},
        {"latents": TOKENS[:, 0]},
        {"latents": TOKENS.astype(int)},
        {"latents": TOKENS[:0]},
        {"latents": "latents.npy"},
        {"latents": [[1.0], [2.0, 3.0]]},
        {"latents": TOKENS, "active": np.ones((N, 16))},
        {"latents": TOKENS, "labels": LABELS.astype(float)},
        {"latents": TOKENS, "labels": LABELS - 1},
        {"latents": TOKENS, "labels": LABELS[:, None]},
        {"images": IMAGES / 127.5 - 1},
        {"images": IMAGES.astype(np.float32)},
        {"images": IMAGES.astype(np.uint16)},
        {"images": IMAGES[..., :2]},
        {"images": IMAGES[:, :3, :3]},  # the colors may be the first or the last axis
        {"images": np.full((N, 8, 8, 1), np.nan)},
        {"latents": TOKENS, "limit": 0},
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays):
    with pytest.raises(UserError):
        wb.evidence(**arrays)


def test_errors_name_the_file(tmp_path):
    write_shards(tmp_path)
    bad = GRID_LATENTS[:5].copy()
    bad[2, 0, 0, 0] = np.nan
    path = tmp_path / "latents_rank00_shard002.safetensors"
    write_safetensors(path, latents=bad, latents_flip=bad, labels=LABELS[:5])
    with pytest.raises(UserError, match=path.name):
        wb.evidence(tmp_path)


def test_shards_of_different_shapes_are_refused(tmp_path):
    write_shards(tmp_path)
    path = tmp_path / "latents_rank00_shard002.safetensors"
    small = GRID_LATENTS[:5, :, :2]
    write_safetensors(path, latents=small, latents_flip=small, labels=LABELS[:5])
    with pytest.raises(UserError, match=path.name):
        wb.evidence(tmp_path)


def test_arrays_of_one_file_must_have_equal_lengths(tmp_path):
    path = tmp_path / "a.npz"
    write_npz(path, latents=TOKENS, labels=LABELS[:-1])
    with pytest.raises(UserError, match=path.name):
        wb.evidence(path)


def test_unknown_names_are_refused_with_the_accepted_ones(tmp_path):
    for write, suffix in ((write_safetensors, "safetensors"), (write_parquet, "parquet")):
        path = tmp_path / f"a.{suffix}"
        write(path, latent=TOKENS)
        with pytest.raises(UserError, match=r"latent.*") as caught:
            wb.evidence(path)
        assert all(name in str(caught.value) for name in ARRAY_NAMES)
    np.save(tmp_path / "z.npy", TOKENS)
    with pytest.raises(UserError, match="z"):
        wb.evidence(tmp_path / "z.npy")


def test_one_array_in_two_files_is_refused(tmp_path):
    np.save(tmp_path / "latents.npy", TOKENS)
    write_npz(tmp_path / "more.npz", latents=TOKENS, labels=LABELS)
    with pytest.raises(UserError, match=r"more\.npz"):
        wb.evidence(tmp_path)


def test_an_array_may_not_be_passed_and_stored(tmp_path):
    write_shards(tmp_path)
    with pytest.raises(UserError, match="labels"):
        wb.evidence(tmp_path, labels=LABELS)


def safetensors_header(**entries) -> bytes:
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header


def header_of(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def valid_bytes(suffix) -> bytes:
    buffer = io.BytesIO()
    if suffix == "npy":
        np.save(buffer, TOKENS)
    elif suffix == "npz":
        np.savez_compressed(buffer, latents=TOKENS)
    elif suffix == "npz uncompressed":
        np.savez(buffer, latents=TOKENS)
    return buffer.getvalue()


OBJECTS = np.array([{"a": 1}], dtype=object)
HOSTILE = {
    "empty.npy": b"",
    "text.npy": b"this is no array",
    "short.npy": valid_bytes("npy")[:-100],
    "negative.npy": valid_bytes("npy").replace(b"(60, 16, 6)", b"(-1, 16, 6)"),
    "code.npy": valid_bytes("npy").replace(b"(60, 16, 6)", b"exit(1)    "),
    "pickle.npy": pickle.dumps(TOKENS),
    "short.npz": valid_bytes("npz")[:-100],
    "damaged.npz": valid_bytes("npz").replace(valid_bytes("npz")[200:220], b"\0" * 20),
    "header.npz": valid_bytes("npz uncompressed").replace(b"(60, 16, 6)", b"((((((((((("),
    "header.npy": valid_bytes("npy").replace(b"(60, 16, 6)", b"((((((((((("),
    "text.npz": b"PK\x03\x04 this is no archive",
    "empty.safetensors": b"",
    "long.safetensors": struct.pack("<Q", 2**62) + b"{}",
    "short.safetensors": safetensors_header(
        latents={"dtype": "F32", "shape": [60, 16, 6], "data_offsets": [0, 23040]}
    ),
    "beyond.safetensors": safetensors_header(
        latents={"dtype": "F32", "shape": [2], "data_offsets": [2**60, 2**60 + 8]}
    ),
    "huge.safetensors": safetensors_header(
        latents={"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}
    ),
    "type.safetensors": safetensors_header(
        latents={"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}
    ),
    "overlap.safetensors": safetensors_header(
        latents={"dtype": "F32", "shape": [1, 1, 2], "data_offsets": [0, 8]},
        codes={"dtype": "I32", "shape": [1, 1], "data_offsets": [4, 8]},
    )
    + bytes(8),
    "hole.safetensors": safetensors_header(
        latents={"dtype": "F32", "shape": [1, 1, 2], "data_offsets": [8, 16]}
    )
    + bytes(16),
    "axes.safetensors": safetensors_header(
        latents={"dtype": "F32", "shape": [1] * 70, "data_offsets": [0, 4]}
    )
    + bytes(4),
    "nothing.npy": header_of((0, 2**62, 2**62)),
    "axes.npy": header_of((1,) * 70) + bytes(4),
    "truth.npy": header_of((True, 1, 1)) + bytes(4),
    "entry.safetensors": safetensors_header(latents=[1, 2]),
    "negative.safetensors": safetensors_header(
        latents={"dtype": "F32", "shape": [-1, 2], "data_offsets": [0, 8]}
    ),
    "json.safetensors": struct.pack("<Q", 4) + b"{{{{",
    "list.safetensors": struct.pack("<Q", 2) + b"[]",
    "nothing.safetensors": struct.pack("<Q", 2) + b"{}",
    "text.parquet": b"PAR1 this is no table PAR1",
    "empty.parquet": b"",
    "latents.pt": b"an ignored format",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_damaged_files_end_in_a_sentence(tmp_path, name):
    (tmp_path / name).write_bytes(HOSTILE[name])
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(UserError) as caught:
            wb.evidence(path)
        assert name in str(caught.value) or path == tmp_path
        assert "\n" not in str(caught.value)


def test_objects_are_not_unpickled(tmp_path):
    np.save(tmp_path / "latents.npy", OBJECTS, allow_pickle=True)
    np.savez(tmp_path / "a.npz", latents=OBJECTS)
    for name in ("latents.npy", "a.npz"):
        with pytest.raises(UserError, match=name):
            wb.evidence(tmp_path / name)


def test_ragged_lists_of_parquet_are_refused(tmp_path):
    import pyarrow as pa
    from pyarrow.parquet import write_table

    for column in ([[0, 1], [2]], [[0, 1], None], [["a"], ["b"]]):
        write_table(pa.table({"codes": pa.array(column)}), tmp_path / "a.parquet")
        with pytest.raises(UserError, match=r"a\.parquet"):
            wb.evidence(tmp_path)


def test_statistics_that_do_not_fit_are_refused(tmp_path):
    write_shards(tmp_path)
    for content in (
        '{"channel_mean": [0]}',
        "[]",
        "{",
        '{"channel_mean": [0], "channel_std": [-1]}',
    ):
        (tmp_path / "latent_stats.json").write_text(content)
        with pytest.raises(UserError, match=r"latent_stats\.json"):
            wb.evidence(tmp_path)


def test_missing_paths_are_refused(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(UserError):
            wb.evidence(path)


# Statistics


def test_statistics_match_numpy():
    random = np.random.default_rng(0)
    latents = random.normal(3, [1, 2, 0, 4], (50, 7, 4)).astype(np.float32)
    active = random.random((50, 7)) < 0.6
    stats = LatentStats.of_latents(latents, active)
    rows = latents[active].astype(np.float64)
    np.testing.assert_allclose(stats.channel_mean, rows.mean(0))
    np.testing.assert_allclose(stats.channel_std, rows.std(0), atol=1e-12)
    assert stats.mean == pytest.approx(rows.mean())
    assert stats.std == pytest.approx(rows.std())
    scaled = (rows - stats.mean) * stats.scaling_factor
    assert (scaled.mean(), scaled.std()) == (pytest.approx(0, abs=1e-9), pytest.approx(1))
    assert stats.channel_scale[2] == 1  # of a constant channel


def test_saved_evidence_opens_again(tmp_path):
    arrays = wb.evidence(codes=CODES, codebook=32, latents=GRID_LATENTS)
    arrays.save(tmp_path / "evidence")
    opened = Evidence.open(tmp_path / "evidence")
    np.testing.assert_array_equal(opened.latents, TOKENS)
    assert opened.codebook.shape == (1, 32, 0)


# Runs


def test_saved_arrays_are_a_run_without_a_model(tmp_path):
    folder = tmp_path / "runs" / "a"
    saved = wb.evidence(latents=GRID_LATENTS, labels=LABELS, codes=CODES, codebook=32, out=folder)
    run = wb.Run(folder)
    assert run.status()["state"] == "imported"
    assert run.steps == [0]
    assert saved.run_name == run.name == "a"
    np.testing.assert_array_equal(run.evidence().latents, TOKENS)
    assert run.evidence().codebook.shape == (1, 32, 0)
    for load in (run.load, run.build):
        with pytest.raises(RunError):
            load()
    with pytest.raises(UserError) as error:  # there is no code that could be trusted
        wb.lens(run, over="tokens")
    assert "trust" not in str(error.value)


@pytest.mark.parametrize(
    ("imported", "advice"),
    [
        (None, "workbench collect runs/a"),
        ({"kind": "tokenizer", "address": "ldm:a.ckpt"}, "workbench collect runs/a"),
        ({"kind": "tokenizer", "address": None}, "evaluate it again"),
        ({"kind": "arrays", "address": "arrays:a"}, "no model"),
    ],
)
def test_advice_on_missing_arrays_can_be_followed(imported, advice):
    evidence = Evidence({"run": "a", "imported": imported})
    assert advice in evidence.reason_for_missing("perturbed_code_shares")


def test_arrays_that_are_refused_leave_no_folder(tmp_path):
    with pytest.raises(UserError):
        wb.evidence(codes=CODES, codebook=31, out=tmp_path / "a")
    assert not any(tmp_path.iterdir())


def test_folders_in_use_are_kept(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(RunError):
            wb.evidence(codes=CODES, codebook=32, out=folder)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_workspace_lists_a_run_of_arrays(tmp_path):
    from workbench.workspace.workspace import Workspace

    wb.evidence(latents=GRID_LATENTS, images=IMAGES, out=tmp_path / "a")
    workspace = Workspace(tmp_path)
    assert not workspace.refused
    assert workspace.table()["run"].tolist() == ["a"]
