"""Raises a Kubernetes cluster of two real nodes from pinned source on one machine, and takes it down again.

Only the standard library is used: this runs on a bare machine before anything is installed.
"""
