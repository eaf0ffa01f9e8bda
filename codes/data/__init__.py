"""Datasets, tiles, corruptions and the loader; they know nothing of models."""

from ..config.plugins import import_submodules
from .base import DataReport, Dataset, Item, Rejected
from .corruptions.all import CORRUPTIONS
from .datasets import DATASETS, DatasetOptions
from .imagefolder import ImageFolderDataset
from .imagefolder_options import ImageFolderOptions
from .labelled import LabelledDataset, LabelledOptions
from .loader import Batch, TrainLoader, collate
from .paired import PairedDataset, PairedOptions
from .samples import HELD_OUT, held_out_photograph, sample_photographs

__all__ = [
    "CORRUPTIONS",
    "DATASETS",
    "HELD_OUT",
    "Batch",
    "DataReport",
    "Dataset",
    "DatasetOptions",
    "ImageFolderDataset",
    "ImageFolderOptions",
    "Item",
    "LabelledDataset",
    "LabelledOptions",
    "PairedDataset",
    "PairedOptions",
    "Rejected",
    "TrainLoader",
    "collate",
    "held_out_photograph",
    "sample_photographs",
]

import_submodules(__name__, __path__[0])
