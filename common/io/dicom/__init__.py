"""DICOM in and out: series found and put in order, stored values to the network and back, one derived series out."""
