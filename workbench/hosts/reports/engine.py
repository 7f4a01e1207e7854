"""The papermill engine that executes report templates."""

from typing import Any

from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines

ENGINE = "workbench"


class ReportEngine(NBClientEngine):
    """Executes a notebook up to its end, its first error, or the death of its kernel."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: NotebookExecutionManager, kernel_name: str, **options: Any
    ) -> Any:
        """Execute the cells. If the kernel dies, mark those that it did not finish as failed."""
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
