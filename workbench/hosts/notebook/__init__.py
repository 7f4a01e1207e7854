"""What is only for JupyterLab: the explorer, the screens of widgets, the view of a run that trains."""
