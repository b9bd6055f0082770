"""The sections of the page, one a file; see `tilth.report.registry.panel`."""
