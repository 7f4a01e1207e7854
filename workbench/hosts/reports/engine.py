"""The papermill engine that executes report templates."""

from typing import Any

from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines

from workbench.core.progress_bar import progress_bar

ENGINE = "workbench"


class ReportEngine(NBClientEngine):
    """Executes a notebook up to its end, its first error, or the death of its kernel."""

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: NotebookExecutionManager,
        kernel_name: str,
        *,
        shows_progress: bool = False,
        **options: Any,
    ) -> Any:
        """Execute the cells. If the kernel dies, mark those that it did not finish as failed.

        Parameters
        ----------
        nb_man : NotebookExecutionManager
            The notebook and its progress.
        kernel_name : str
            The kernel to start.
        shows_progress : bool
            Whether to count the cells on a bar of `workbench.core.progress_bar`, which writes lines
            to a file; the bar of papermill does not.
        **options
            Options of papermill.

        Returns
        -------
        NotebookNode or None
            The notebook, if its kernel died.
        """
        if shows_progress:
            nb_man.pbar = progress_bar(total=len(nb_man.nb.cells), unit="cell", desc="Executing")
        try:
            return super().execute_managed_notebook(nb_man, kernel_name, **options)
        except RuntimeError:
            _mark_unfinished_cells(nb_man.nb)
            return nb_man.nb


def _mark_unfinished_cells(notebook: Any) -> None:
    """Mark cells as failed that papermill would record as completed."""
    started = [cell for cell in notebook.cells if cell.get("execution_count")]
    for cell in notebook.cells:
        if cell not in started[:-1]:
            cell.metadata.papermill["status"] = "failed"


papermill_engines.register(ENGINE, ReportEngine)
