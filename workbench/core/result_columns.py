"""Definitions and precision of the columns of the tables below figures.

`analysis.column` where a column means something else in one analysis.
"""

import math
from collections.abc import Iterable

import pandas as pd
from pandas.api.types import is_float_dtype

from workbench.core.glossary import tooltip

SIGNIFICANT_DIGITS = 4

INTERVAL = "end of the 95 % interval."
UNIFORM = "for a uniform source with as many tokens."

RESULT_COLUMNS = {
    "low": f"Lower {INTERVAL}",
    "high": f"Upper {INTERVAL}",
    "code_distances.low": "5th percentile of the distances to the nearest other code.",
    "code_distances.high": "95th percentile of the distances to the nearest other code.",
    "value": "The value of the measure in this row.",
    "measure": "What is measured.",
    "null": "The value without any structure, such as for Gaussian or shuffled latents.",
    "null of": "What the value without structure was computed for.",
    "shuffled": "The value for shuffled partners, which is expected by chance.",
    "gaussian": "The value for Gaussian latents of the same mean and covariance.",
    "chance": "The value that random guessing reaches.",
    "n": "Number of images, or of runs, that were used.",
    "images": "Number of images that were used.",
    "image": "Index of the image in the evidence.",
    "class": "Class of the image.",
    "count": "How often it occurs.",
    "run": "Name of the folder of the run.",
    "reference": "The run with which the others are compared.",
    "verdict": "The conclusion from the numbers of this row.",
    "rank": "1 for the nearest.",
    "difference": "The difference to the first run, or between the runs.",
    "better": "Direction, or number of images, in which this is better.",
    "tied": "Images on which the two runs are equal.",
    "worse": "Images on which this run is worse than the first one.",
    "better_share": "Fraction of the images on which this run is better.",
    "reason": "Why the value is missing or cannot be compared.",
    "source": "Where the number was published.",
    "protocol": "How the number was measured.",
    "feature_extractor": "The network whose features are compared.",
    "unit": "Unit of the values.",
    "channel": "Number of the channel of a token.",
    # Codebooks
    "codebook": "Number of the codebook.",
    "decision.codebook": "Verdict on the codebook.",
    "code": "Number of the code, or of the check.",
    "size": "Codes in the codebook.",
    "tokens": "Number of tokens, per image where a run is described.",
    "used": "Codes that at least one token selected.",
    "used_uniform": f"Used codes {UNIFORM}",
    "perplexity": "Effective number of codes: exp of the entropy of their shares, biased low.",
    "perplexity_corrected": "Perplexity without most of its bias (Miller and Madow).",
    "perplexity_uniform": f"Perplexity {UNIFORM}",
    "dead": "Codes that no token selected.",
    "gini": "Inequality of the shares; 0 if all codes are equally frequent.",
    "top_share": "Fraction of the tokens on the most frequent 1 % of the codes.",
    "core": "Most frequent codes that hold 99 % of the tokens.",
    "chao1": "Estimated number of codes that can be reached.",
    "chao1_low": f"Lower {INTERVAL}",
    "chao1_high": f"Upper {INTERVAL}",
    "coverage": "Estimated probability that a further token selects a used code.",
    "growth": "Fraction of the used codes that only the second half of the tokens added.",
    "zipf_exponent": "Exponent s of shares that fall as rank to the power of -s.",
    "zipf_low": "First rank of the fit.",
    "zipf_high": "Last rank of the fit.",
    "zipf_uniform": f"Exponent {UNIFORM}",
    "searched": "Codes whose nearest other code was searched.",
    "duplicates": "Codes within a thousandth of the median distance of another code.",
    "median": "Median distance to the nearest other code.",
    "radius_ratio": "Median distance between codes over the distance of tokens to their code.",
    "norm": "Mean norm of the codewords.",
    "norm_cv": "Standard deviation of the norms over their mean.",
    "cosine": "Mean cosine over all pairs of codes.",
    "participation": "Effective number of dimensions of the codewords.",
    "hubness": "Skewness of how often a code is among the 10 nearest of others.",
    "hubness_gaussian": "Hubness of Gaussian vectors with the same covariance.",
    "hubness_gaussian_max": "The largest hubness of five such draws.",
    "dead: duplicate": "Dead codes that are duplicates of another code.",
    "dead: far": "Dead codes far from all used codes.",
    "dead: rare": "Dead codes that are expected to be used with more tokens.",
    "dead: passed over": "Dead codes near used codes, which are never nearest to a token.",
    "churn": "Fraction of the tokens whose code changed between the checkpoints.",
    "retained": "Codes that both checkpoints select.",
    "born": "Codes that only the later checkpoint selects.",
    "died": "Codes that only the earlier checkpoint selects.",
    "regrouped": "0 if codes were only renumbered, 1 if the groups of tokens are unrelated.",
    "first": "First value of the curve, or the first code of a pair.",
    "second": "The second code of a pair.",
    "expected": "The value if the two were independent, or the direction that papers report.",
    "pmi": "log2 of the count over the expected count, in bits.",
    "surprise": "Likelihood ratio of the count: large for frequent and strong associations.",
    "remaining": "Codes that remain.",
    "dropped": "Fraction of the codes that were dropped.",
    "common_class": "Most frequent class of the tokens of the code.",
    "class_share": "Fraction of the tokens of the code in that class.",
    "code_gallery.distance": "Mean distance of the tokens to their code.",
    "attribute": "What the codes are compared with.",
    "plug_in": "Mutual information of codes and attribute as counted, in bits per token.",
    "deviation": "Standard deviation.",
    "corrected": "The value minus that expected by chance.",
    "attribute_entropy": "Entropy of the attribute: the largest possible information, in bits.",
    "context": "What the code is predicted from.",
    "bits": "Bits per token, or per image where runs are compared.",
    "max_bits": "Bits of a code without any prediction.",
    "entropy": "Entropy of the shares of the codes, in bits.",
    "level": "Number of the level, or strength of the noise.",
    "share": "Fraction of the tokens.",
    "uniform_share": f"Fraction {UNIFORM}",
    # Checks
    "check": "Name of the check.",
    "status": "error, warning, info, passed or not applicable.",
    "observation": "The finding, with its numbers.",
    "numbers": "The numbers behind the finding.",
    "advice": "A change that usually helps.",
    "rule": "When the check reports.",
    "documentation": "Page that explains the check.",
    # Generation
    "distance": "Name of the distance, or the distance itself.",
    "real": "The set of real images.",
    "evaluated": "The set of images that is evaluated.",
    "fd": "Fréchet distance in the features of the feature extractor. Lower is better.",
    "rfd": "Fréchet distance of reconstructions to held-out images. Lower is better.",
    "gfd": "Fréchet distance of generated images to training images. Lower is better.",
    "extrapolated": "The distance for an unlimited number of images.",
    "kid": "Kernel distance; unbiased, so that it may be negative. Lower is better.",
    "kid_error": "Standard error of the kernel distance.",
    "precision": "Fraction of the evaluated images within the manifold of the real images.",
    "recall": "Fraction of the real images within the manifold of the evaluated images.",
    "precision_error": "Standard error of the precision.",
    "recall_error": "Standard error of the recall.",
    "cmmd": "CLIP distance with a Gaussian kernel. Lower is better.",
    "inception_score": "Inception score of the evaluated images. Higher is better.",
    "correct": "Images whose class was predicted.",
    "accuracy": "Fraction of correct predictions.",
    "most confused with": "The most frequent wrong prediction.",
    "time": "Time of the flow; 0 is data and 1 is noise.",
    "over_mean": "Ratio to the mean over all times.",
    "diagnostic": "The metric that may predict generation.",
    "spearman": "Rank correlation (Spearman) of ranks within families of tokenizers.",
    "kendall": "Rank correlation (Kendall's tau b) of ranks within families of tokenizers.",
    "p": "Two-sided p-value of this diagnostic alone.",
    "adjusted": "p-value adjusted for the choice among all diagnostics.",
    "significant": "Whether the adjusted p-value is small.",
    "num_diagnostics": "Number of diagnostics that were tried.",
    "tokenizer": "The tokenizer of the run, or a published one.",
    "is run": "Whether the row is a run of this folder.",
    "published as": "Name of the published tokenizer.",
    "ifid": "Interpolation FID of the tokenizer.",
    "differences": "Differences between the run and the published tokenizer.",
    # Images
    "rfid": "Fréchet Inception distance of the reconstructions, as published. Lower is better.",
    "psnr": "Peak signal-to-noise ratio. Unit: dB. Higher is better.",
    "l1": "Mean absolute error of pixels in [0, 1]. Lower is better.",
    "mse": "Mean squared error of pixels in [0, 1]. Lower is better.",
    "ssim": "Structural similarity. Higher is better.",
    "ms_ssim": "Structural similarity at several scales. Higher is better.",
    "lpips": "Perceptual distance LPIPS. Lower is better.",
    "mode": "Mode of the mixture that the image belongs to.",
    "cosine distance": "Distance in the latent space of the run.",
    "model": "The published model.",
    "metric": "What was measured.",
    "published": "The published value.",
    "measured": "The value that was measured here.",
    # Latents
    "probe": "The classifier and its input.",
    "modes": "Number of Gaussians of the mixture.",
    "loglikelihood": "Held-out log-likelihood per image.",
    "gain": "Gain in held-out log-likelihood over one Gaussian, per image.",
    "gain_error": "Standard error of the gain.",
    "null_gain": "Gain for one Gaussian with the same covariance.",
    "untrained_gain": "Gain for the untrained encoder.",
    "bic": "Bayesian information criterion. Lower is better.",
    "stability": "Agreement of fits to different images; 1 is perfect.",
    "nmi": "Normalized mutual information of modes and classes.",
    "shuffled_nmi": "The same for shuffled classes.",
    "rand": "Adjusted Rand index of modes and classes.",
    "in_range": "Whether this number of modes is in the 90 % range.",
    "best": "Whether this number of modes is the best one.",
    "nll": "Held-out negative log-likelihood. Lower is better.",
    "reached": "Whether the target is reached, or the error that was reached.",
    "needed": "What is needed to reach the target.",
    "fewest": "The smallest number over the splits.",
    "most": "The largest number over the splits.",
    "explained": "Fraction of the variance that the dimensions hold.",
    "x": "Horizontal coordinate on the map.",
    "y": "Vertical coordinate on the map.",
    # Diffusability
    "perspective": "The property of the latents.",
    "comparable": "Whether the value can be compared with that of the primary run.",
    "neighborhood": "The latents between which points are interpolated.",
    "reconstruction_distance": "The distance of the reconstructions to the images.",
    "excess": "The distance above that of the reconstructions.",
    "noise": "Kind of the noise.",
    "increase": "Error above that without noise.",
    "transform": "The transform of the image.",
    "direct_psnr": "PSNR if the image is transformed after decoding.",
    "latent_error": "Relative error of the transformed latents.",
    "raw_latent_error": "The same before the scales are matched.",
    "mean": "Mean of the numbers.",
    "std": "Standard deviation of the numbers.",
    "scaling_factor": "1 over the standard deviation.",
    "shift": "Number that is subtracted before training a generator.",
    "scale": "Factor by which latents are multiplied before training a generator.",
    "representation": "The space in which neighbors are searched.",
    "latents": "The variant of the latents.",
    "spectrum": "The variant of the spectrum.",
    "covariance": "How the covariance was estimated.",
    # Tokens and runs
    "kind": "Whether all tokens of the run or its first tokens were decoded.",
    "gmacs": "Work of a generator. Unit: 10⁹ multiplications.",
    "frontier": "Whether no other point is both cheaper and better.",
    "bits_per_pixel": "Bits per pixel of the image.",
    "requested": "Mean absolute error that was requested.",
    "over": "Fraction of the images above the request.",
    "over_low": f"Lower {INTERVAL}",
    "over_high": f"Upper {INTERVAL}",
    "violators": "Mean error of the images above the request.",
    "need_correlation": "Rank correlation of the tokens with the fewest that meet the request.",
    "avoidable": "Fraction of all images: above the request, which another number of tokens meets.",
    "perfect": "The correlation of a perfect halting.",
    "start": "Number of tokens before the step.",
    "end": "Number of tokens after the step.",
    "error": "Mean error over images.",
    "token_complexity.spearman": "Rank correlation (Spearman) with the tokens, over images.",
    "marginal_token_value.value": "Drop in error per token; negative if the error rises.",
    "recommended": "Whether the run is the one to choose for the goal.",
    "decision.tokens": "Tokens per image, mean over images.",
    "decision.bits": "Bits per image of discrete tokens.",
    "decision.probe": "Accuracy of a linear classifier of the latents. Higher is better.",
    "findings": "Findings of the checks, by severity.",
    "codes_used": "Codes that at least one token selected.",
    "codebook_size": "Number of codewords.",
    "errors": "Findings of severity error.",
    "warnings": "Findings of severity warning.",
    "infos": "Findings of severity info.",
    "generators": "Generators that were trained on the run.",
    "curve": "What is logged.",
    "last": "Last value of the curve.",
    "min": "Smallest value of the curve.",
    "max": "Largest value of the curve.",
    "step_of_min": "Step of the smallest value.",
    "last_step": "Last logged step.",
    "part": "Data, training or model.",
    "setting": "Name of the setting.",
    "differs": "Whether the runs differ in this setting.",
    "direction": "Why a higher or a lower value is better.",
    "analysis": "The analysis that shows this measure in detail.",
    "gfid": "gFID that is predicted for the generator in the title. Lower is better.",
}


def column_tooltip(analysis: str, column: str) -> str:
    """Return the definition of a column of a result's table; empty without one.

    Parameters
    ----------
    analysis : str
        The name of the analysis.
    column : str
        The title of the column.

    Examples
    --------
    >>> column_tooltip("code_distances", "low")
    '5th percentile of the distances to the nearest other code.'
    >>> column_tooltip("probes", "psnr_low")
    'Lower end of the 95 % interval.'
    """
    text = RESULT_COLUMNS.get(f"{analysis}.{column}") or RESULT_COLUMNS.get(column)
    if text is None and column.endswith(("_low", "_high")):
        text = RESULT_COLUMNS[column.rpartition("_")[2]]
    if text is None and column.endswith("_standing"):
        text = "best, tied with the best, or neither."
    if text is None and column.startswith("fd_"):  # and the features, such as `fd_hog`
        text = RESULT_COLUMNS["fd"]
    if text is None and " " in column:  # such as `psnr RUN`
        text = RESULT_COLUMNS.get(column.partition(" ")[0].rstrip(","))
    return text or tooltip(column)


def decimals(values: Iterable[float], digits: int = SIGNIFICANT_DIGITS) -> int | None:
    """Return the number of decimals with which all values of a column are written.

    Parameters
    ----------
    values : iterable of float
        The values; those that are not finite are ignored.
    digits : int
        Significant digits of the largest value.

    Returns
    -------
    int or None
        None if the smallest value would be written as zero.

    Examples
    --------
    >>> decimals([27.728, 19.47]), decimals([4.0, 16.0]), decimals([1e-9, 1.0])
    (2, 0, None)
    """
    sizes = [abs(value) for value in values if math.isfinite(value) and value]
    if all(size.is_integer() for size in sizes):
        return 0
    places = max(0, digits - 1 - math.floor(math.log10(max(sizes))))
    return places if round(min(sizes), places) else None


def decimals_of_columns(table: pd.DataFrame) -> dict[str, int | None]:
    """Return the decimals of each column of a table that has numbers with a fraction."""
    return {str(name): decimals(values) for name, values in table.items() if is_float_dtype(values)}


def number_text(places: int | None, value: float, digits: int = SIGNIFICANT_DIGITS) -> str:
    """Return a number of a column with as many decimals as the others.

    Examples
    --------
    >>> number_text(2, 19.5), number_text(None, 1e-9), number_text(0, math.nan)
    ('19.50', '1e-09', '–')
    """
    if math.isnan(value):
        return "–"
    return f"{value:.{digits}g}" if places is None else f"{value:,.{places}f}"
