"""Keep the view of a dashboard and the address of its page equal, in both directions."""

from collections.abc import Callable

from workbench.core.errors import UserError
from workbench.hosts.dashboard.state import DashboardState
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace


def view_of_address(query: str, workspace: Workspace) -> tuple[ViewState, str]:
    """Return the view of an address, and a warning that is empty if the address is valid.

    An address without runs has those of the workspace's default view, and an invalid one is
    replaced by that view. An address without an analysis shows analyses of all selected runs.
    """
    default = workspace.default_view().change(tab="overview")
    try:
        view = ViewState.from_query(query)
        for name in view.runs:
            workspace.run(name)
        if not view.runs:
            view = view.change(runs=default.runs)
        if view.step is not None and view.runs:
            workspace.run(view.runs[0]).evidence(view.step)
    except UserError as error:
        return default, f"This link could not be opened: {error}"
    if "analysis=" in query or view.tab:
        return view, ""
    return view.change(tab="overview", side_by_side=True), ""


class AddressBar:
    """Writes every new view into the address, and shows the view of an address.

    Parameters
    ----------
    write : callable
        Puts a query into the address bar.
    """

    def __init__(
        self, state: DashboardState, workspace: Workspace, write: Callable[[str], None]
    ) -> None:
        self.state = state
        self.workspace = workspace
        self.write = write
        state.param.watch(lambda _: self.update(), "view")

    def update(self) -> None:
        """Write the address of the view, unless the browser has it."""
        query = self.state.view.to_query()
        if query != self.state.address:
            self.state.address = query
            self.write(query)

    def follow(self, query: str) -> None:
        """Show the view of an address."""
        view, self.state.notice = view_of_address(query, self.workspace)
        self.state.follow_address(view)
