"""Puts the rooms together: build, curate, launch, deploy, trace. The only room that imports Dask."""
