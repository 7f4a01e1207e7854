"""The words on the screen: controls, choices, metrics and columns, with definition and unit.

This is the one source of labels and tooltips of all hosts, and of the table in the documentation.
"""

from dataclasses import dataclass
from typing import Literal

Direction = Literal["", "higher is better", "lower is better"]


@dataclass(frozen=True)
class Term:
    """A word on the screen.

    Attributes
    ----------
    label : str
        The word itself.
    definition : str
        One or two sentences.
    unit : str
        Empty for a number without a unit, and for everything that is not a number.
    direction : {"", "higher is better", "lower is better"}
        Empty if neither holds in general.
    """

    label: str
    definition: str
    unit: str = ""
    direction: Direction = ""

    @property
    def tooltip(self) -> str:
        """The definition, the unit and the direction as one text."""
        parts = [self.definition]
        if self.unit:
            parts.append(f"Unit: {self.unit}.")
        if self.direction:
            parts.append(f"{self.direction.capitalize()}.")
        return " ".join(parts)


HIGHER: Direction = "higher is better"
LOWER: Direction = "lower is better"

# By the name of the parameter, or by `analysis.parameter` where it means something else.
CONTROLS = {
    "reconstruction.show": Term("Images", "Number of images that are drawn."),
    "reconstruction.order": Term("Order", "The images that are drawn, by their error."),
    "image_comparison.page": Term("Page", "The page of images that is shown."),
    "image_comparison.order": Term(
        "Order",
        "The images on the first page: those that the runs reconstruct most differently, those with"
        " the largest or smallest error, or by class or mode.",
    ),
    "image_comparison.count": Term("Images per page", "Number of images on a page."),
    "patches": Term(
        "Largest errors",
        "The square of a quarter of the side with the largest error: outlined for each run, or"
        " enlarged at the same position for all runs.",
    ),
    "image": Term("Image", "Index of the image whose most similar images are shown."),
    "similar_images.neighbors": Term(
        "Similar images", "Number of images that are shown for each run."
    ),
    "metric": Term("Metric", "The measure of reconstruction quality."),
    "against": Term("Cost", "The horizontal axis: what an image costs."),
    "prefixes": Term(
        "First tokens alone", "Also draw images that were decoded from their first tokens only."
    ),
    "halted": Term("With halting", "Count only the tokens that the tokenizer did not halt."),
    "seed": Term(
        "Seed", "Seed of subsets, shuffles and random starts. A result should not depend on it."
    ),
    "ifid": Term(
        "iFID",
        "Interpolation FID of the first tokenizer without a generator, if the code of arXiv"
        " 2603.05630 measured it on ImageNet; 0 if it was not measured.",
    ),
    "log": Term("Logarithmic", "Use logarithmic axes where all values are positive."),
    "code_gallery.order": Term("Codes", "Which codes are shown."),
    "code_gallery.show": Term("Number of codes", "Number of codes that are shown."),
    "members": Term("Patches per code", "Number of image patches that are shown for each code."),
    "shuffles": Term(
        "Shuffles", "Number of random permutations of the classes that estimate chance."
    ),
    "num_codes": Term("Most frequent codes", "Number of codes in the matrix, by their frequency."),
    "min_count": Term("Smallest count", "Pairs of codes that occur less often are left out."),
    "preset": Term(
        "Protocol",
        "The choices of covariance, dimensions and criterion: of this package or a paper.",
    ),
    "components": Term(
        "Principal components",
        "Dimensions that latents are reduced to before a mixture is fitted; 0 keeps 90 % of the"
        " variance.",
    ),
    "max_modes": Term(
        "Largest number of modes", "Mixtures of 1 to this many Gaussians are fitted."
    ),
    "covariance": Term("Covariance", "The shape of the Gaussians of a mixture."),
    "method": Term("Projection", "The method that puts latents into a plane."),
    "count": Term("Images", "Number of images that are drawn."),
    "color_by": Term("Color", "What the color of a point shows."),
    "points": Term("Points", "At most this many images are used; they are drawn by class."),
    "neighbors": Term("Neighbors", "Number of nearest neighbors of a point."),
    "standardize": Term("Standardize", "Give each channel mean 0 and standard deviation 1 first."),
    "tsne": Term("t-SNE", "Also draw a t-SNE projection, which is slow."),
    "max_images": Term("Images", "At most this many images are used."),
    "scaling": Term("Scaling", "How channels are scaled before distances are measured."),
    "center_positions": Term(
        "Without positions", "Subtract the mean of each token position, and scale again."
    ),
    "per_class": Term("Samples per class", "Number of samples that are shown for each class."),
    "splits": Term("Half samples", "Number of random halves behind an interval."),
    "settings_comparison.show": Term("Settings", "The settings in the table."),
    "checks.show": Term("Checks", "The checks in the table."),
    "x": Term("Horizontal axis", "What progress of training is measured in."),
    "smoothing": Term(
        "Smoothing", "Weight of the past in an exponential moving average; 0 draws the log itself."
    ),
    "terms": Term(
        "Loss terms",
        "A multiplier that was changed during training otherwise looks like a jump of the loss.",
    ),
    "lens.over": Term("Slider", "What changes from left to right when the slider moves."),
    "lens.show": Term("Rows", "Number of images, or of samples, one per row."),
    "lens.order": Term("Images", "The images that are shown, by their error."),
    "lens.step": Term("Checkpoint", "The training step of the model that is run."),
    "lens.token": Term("Token", "Position of the token that is changed."),
    "lens.mode": Term("From mode", "The mode of the mixture at which the path starts."),
    "lens.label": Term("Class", "The class of which samples are drawn."),
    "lens.seed": Term("Seed", "Seed of the noise: equal seeds give equal samples."),
    "goal": Term("Goal", "The property by which a run is chosen."),
    "modes": Term("Count modes", "Also use the number of modes as a predictor, which is slow."),
}

CHOICES = {
    "psnr": "PSNR",
    "ssim": "SSIM (window of 7)",
    "l1": "Mean absolute error",
    "mse": "Mean squared error",
    "features": "Distance in features",
    "rfd": "rFD (Fréchet distance of reconstructions)",
    "best generation": "Best generation",
    "best reconstruction": "Best reconstruction",
    "cheapest within 1 dB": "Fewest tokens within 1 dB",
    "best probe": "Best probe",
    "gfd": "gFD (Fréchet distance of samples)",
    "loss": "Training loss",
    "tokens": "Tokens per image",
    "bits": "Bits per image",
    "bits per pixel": "Bits per pixel",
    "GMACs": "Work of a generator (GMACs)",
    "first": "First images",
    "worst": "Largest error first",
    "best": "Smallest error first",
    "disagreement": "Largest difference first",
    "selected": "Selected images",
    "outlined": "Outlined",
    "enlarged": "Enlarged",
    "hidden": "Not marked",
    "commonest": "Most frequent",
    "rarest": "Least frequent, but used",
    "random": "Random",
    "ours": "This package's own",
    "paper text": "MAETok, as in its text",
    "released script": "MAETok, as in its script",
    "euler": "Euler's method",
    "heun": "Heun's method",
    "euler-maruyama": "Euler-Maruyama method",
    "ddpm": "DDPM",
    "diag": "Axis-aligned (diagonal)",
    "full": "Any shape (full)",
    "tied": "One shape for all (tied)",
    "umap": "UMAP (neighborhoods)",
    "pca": "PCA (linear)",
    "class": "Class",
    "mode": "Mode of a mixture",
    "code": "Most frequent code",
    "error": "Reconstruction error",
    "by channel": "Each channel alone",
    "all alike": "All channels alike",
    "differing": "Shared and different",
    "all": "All",
    "findings": "Findings only",
    "step": "Optimizer steps",
    "images": "Training images",
    "minutes": "Minutes without pauses",
    "without multipliers": "Without multipliers",
    "as optimized": "As the optimizer received them",
}

# Directions in which the slider of a lens moves.
LENS_AXES = {
    "run": "Run",
    "tokens": "Number of first tokens",
    "error": "Requested error",
    "token dropped": "One token left out",
    "token swapped": "One token of another image",
    "code": "Code of one token",
    "modes": "From mode to mode",
    "step": "Training step",
    "time": "Time of sampling",
    "guidance": "Guidance scale",
    "interval": "Interval of guidance",
}

# Columns of tables, by their titles.
COLUMNS = {
    "PSNR (dB)": Term(
        "PSNR (dB)", "Peak signal-to-noise ratio, mean over held-out images.", "dB", HIGHER
    ),
    "rFD": Term(
        "rFD",
        "Fréchet distance of reconstructions to the held-out images, in the features of the run's"
        " feature extractor. It is called rFID only with Inception features.",
        direction=LOWER,
    ),
    "gFD": Term(
        "gFD",
        "Fréchet distance of generated images to training images, in the features of the run's"
        " feature extractor. It is called gFID only with Inception features.",
        direction=LOWER,
    ),
    "loss": Term(
        "loss",
        "Sum of the weighted terms at the last record. Compare it only between runs with the same"
        " objective.",
        direction=LOWER,
    ),
    "held-out loss": Term(
        "held-out loss",
        "The loss of 64 held-out items with the averaged weights, at the last record.",
        direction=LOWER,
    ),
    "codes in use": Term(
        "codes in use",
        "Codes that were selected in training since the record before. The analysis Codebook usage"
        " measures held-out images.",
        "codes",
        HIGHER,
    ),
    "perplexity": Term(
        "perplexity",
        "Effective number of codes in training: exp of the entropy of their shares.",
        "codes",
        HIGHER,
    ),
    "minutes": Term("minutes", "Time of training without pauses.", "minutes", LOWER),
    "images per second": Term(
        "images per second", "Training images per second, mean over training.", "1/s", HIGHER
    ),
    "peak memory (GB)": Term(
        "peak memory (GB)",
        "Largest memory of the GPU, or of the process without a GPU.",
        "10⁹ bytes",
        LOWER,
    ),
    "tokens": Term("tokens", "Tokens per image.", "tokens", LOWER),
    "num_tokens": Term("num_tokens", "Tokens per image.", "tokens", LOWER),
    "dim": Term("dim", "Channels of a token.", "channels"),
    "run": Term("run", "Name of the folder of the run."),
    "state": Term("state", "running, paused, stopped, finished, interrupted, failed or imported."),
    "kind": Term("kind", "Class of the model."),
    "data": Term("data", "The images that the model was trained on."),
    "step": Term("step", "Finished optimizer steps.", "steps"),
    "evidence at step": Term("evidence at step", "Checkpoint whose outputs were collected last."),
    "tags": Term("tags", "Your own words, separated by commas. A filter finds them."),
    "note": Term("note", "Your own text. A filter finds its words."),
    "pin": Term("pin", "Pinned runs are listed first."),
    "hide": Term("hide", "Hidden runs are left out of this table. Nothing is deleted."),
    "recipe": Term("recipe", "System and dataset, as in `workbench train RECIPE`."),
    "lr": Term("lr", "Peak learning rate."),
    "codebook_size": Term("codebook_size", "Number of codewords.", "codes"),
}

OTHERS = {
    "filter": Term(
        "Filter",
        "Conditions with & between them: column operator value, as in psnr > 25 & kind = VQVAE."
        " Other text is searched in names, tags and notes.",
    ),
    "columns": Term("Columns", "Metrics, facts and settings that are shown."),
    "primary run": Term(
        "Primary run", "The run that fills every tab. The other selected runs are compared with it."
    ),
    "evidence of step": Term(
        "Evidence of step", "The checkpoint of the primary run whose outputs are analyzed."
    ),
    "side by side": Term(
        "Compare selected runs",
        "Show this analysis for up to four selected runs, in panels with common axes, instead of"
        " the primary run only.",
    ),
    "compare live": Term(
        "Compare selected runs",
        "Draw the curves of all selected runs into the same panels, one color per run.",
    ),
    "only differing": Term(
        "Only settings that differ", "Leave out settings that are the same in all runs."
    ),
    "setting": Term(
        "setting",
        "A setting of the model or of training; `workbench train RECIPE --help` defines it.",
    ),
    "#": Term("#", "The key that selects or deselects the run."),
    "group by": Term("Group by", "Rows with the same value of this column form a group."),
    "show hidden": Term("Show hidden runs", "Also list the runs that are marked in column hide."),
    "select images": Term(
        "Select images",
        "Conditions with & between them: column operator value, as in error > 0.05 & class = 3."
        " All tabs show the same selection.",
    ),
    "name of a view": Term(
        "Name", "Stores the address of this view in the folder of runs under this name."
    ),
    "title of a report": Term("Title", "The heading of the report."),
    "author of a report": Term("Author", "Is written below the heading of the report."),
    "resume or clone": Term(
        "Resume or clone a run",
        "Resume continues a run that was stopped. Clone fills the form below with its settings.",
    ),
    "all settings": Term(
        "All settings", "Also show the settings that the recipe leaves at their defaults."
    ),
    "images of step": Term(
        "Images of step", "The step of training whose preview images are shown."
    ),
    "note of a view": Term("Note", "Text above the view in the report, as Markdown."),
    "conclusion of a report": Term("Conclusion", "Text at the end of the report, as Markdown."),
    "several values": Term(
        "Several values",
        "Starts one training per combination: name=value,value, with ; between settings.",
    ),
    "train to step": Term(
        "Train to step", "A run that has finished is trained longer with more steps than it has."
    ),
    "trainings at the same time": Term(
        "At the same time", "Trainings of the queue that run at the same time; the others wait."
    ),
    "multiplier": Term(
        "multiplier", "Factor of a loss term or of the learning rate, from the next step on."
    ),
}

# Titles that differ from the names of the functions and folders.
ANALYSIS_TITLES = {"code_cooccurrence": "Code co-occurrence"}
GROUP_TITLES = {"learnability": "Diffusability", "runs": "Compare", "diagnosis": "Checks"}

# By the text of the button; # stands for a number.
BUTTONS = {
    "CSV": "Download the table of the selected images.",
    "Python": "Show the code that makes this view.",
    "copy link": "Copy the address of this view.",
    "open in lens": "Show the selected images in the lens.",
    "similar images": "Search for images that resemble the first selected one.",
    "clear": "Select no image.",
    "save": "Store the address of this view under the name.",
    "add to report (r)": "Add this view to the list below; nothing is written yet.",
    "Write report": "Write the views of the list into one HTML file.",
    "compute": "Compute this view again.",
    "cancel": "Stop this computation or training.",
    "apply": "Multiply the terms of the running training from its next step on.",
    "pause": "Wait after the current step.",
    "resume": "Continue the training that waits.",
    "stop": "Save a checkpoint and end; the command that started the run resumes it.",
    "sample now": "Save preview images of the current weights.",
    "evaluate now": "Collect evidence of the current weights.",
    "Start training": "Add a training with these settings to the queue.",
    "Start # trainings": "Add a training of every combination to the queue.",
    "Resume": "Continue the chosen run from its last checkpoint, up to the step.",
    "Clone": "Fill the form below with the settings of the chosen run.",
    "start": "Start this training now.",
    "remove": "Remove this training from the list; its run stays.",
    "follow": "Open the tab Live on this run.",
    "log": "Show or hide the output of this training.",
}


def control_term(analysis: str, name: str) -> Term:
    """Return the term of a control; one without an entry has its name as its label.

    Parameters
    ----------
    analysis : str
        The name of the analysis.
    name : str
        The name of the parameter.

    Examples
    --------
    >>> control_term("checks", "show").label, control_term("fidelity", "seed").label
    ('Checks', 'Seed')
    """
    fallback = Term(name.replace("_", " ").capitalize(), "")
    return CONTROLS.get(f"{analysis}.{name}", CONTROLS.get(name, fallback))


def analysis_title(name: str) -> str:
    """Return the title of an analysis.

    Examples
    --------
    >>> analysis_title("code_cooccurrence"), analysis_title("token_budget")
    ('Code co-occurrence', 'Token budget')
    """
    return ANALYSIS_TITLES.get(name, name.replace("_", " ").capitalize())


def group_title(name: str) -> str:
    """Return the title of a group of analyses.

    Examples
    --------
    >>> group_title("learnability"), group_title("codebook")
    ('Diffusability', 'Codebook')
    """
    return GROUP_TITLES.get(name, name.capitalize())


def choice_label(value: str) -> str:
    """Return the label of an entry of a menu.

    Examples
    --------
    >>> choice_label("diag"), choice_label("unknown")
    ('Axis-aligned (diagonal)', 'unknown')
    """
    return CHOICES.get(value, value)


def axis_label(name: str) -> str:
    """Return the label of a direction of the lens.

    Examples
    --------
    >>> axis_label("code"), axis_label("another")
    ('Code of one token', 'Another')
    """
    return LENS_AXES.get(name, name.capitalize())


def tooltip(name: str) -> str:
    """Return the tooltip of a column or of another word on the screen; empty without an entry."""
    term = COLUMNS.get(name) or OTHERS.get(name)
    return "" if term is None else term.tooltip
