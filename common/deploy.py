"""MONAI Deploy: an application from a DICOM folder to the derived series, and the operators at its ends.

Needs MONAI Deploy App SDK 4.0.0; nothing else here imports it. In the folder of a packed bundle::

    python -m sr_<method>_<hash>.common.deploy -i DICOM_FOLDER -o OUT -m .

The SDK's DICOMSeriesToVolumeOperator forgets the stored type and swaps the spacings of pixels that are not square, and
there is no writer for derived MR or CT. What reads and writes here are the bundle's own first and last transform, which
the SDK takes out of the configuration.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application, Fragment, Image, Operator, OperatorSpec

from .config import split_settings
from .data.files import find_cases
from .data.worklist import Source, suffix_of
from .deploy_operator import SuperResolutionOperator, attempt
from .errors import case_warnings_noted
from .io.case import KEY
from .io.deploy_image import image_of, volume_of
from .io.transforms import CaseLoadImaged, CaseSaveImaged

OF_READER = ("slice_axis", "volume", "channels_last")
OF_NETWORK = (
    *("ckpt_path", "batch_size", "memory_mb", "tile", "self_ensemble", "consistency_bound", "amp_dtype"),
    *("scale", "target_spacing"),  # of networks of any scale
    *("lesion_focus", "region_size", "detector_path"),  # of those that have a detector
)
logger = logging.getLogger("common.deploy")


class SeriesReaderOperator(Operator):  # type: ignore[misc]
    """Emits a DICOM series, or an image of another format, a tick as ``image``, with the record that its writer needs.

    Args:
        fragment: the application.
        sources: items of :func:`common.data.files.find_cases`; give as many ticks by ``CountCondition``.
        loader, saver: transforms of the bundle, see :class:`SuperResolutionOperator`.
        mistakes: as there.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        sources: Sequence[Source],
        loader: CaseLoadImaged,
        saver: CaseSaveImaged,
        mistakes: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.sources, self.loader, self.saver, self.mistakes = iter(sources), loader, saver, mistakes
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """One output."""
        spec.output("image")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Read the next image, unless its result is there already."""
        source = next(self.sources)
        with attempt(lambda: str(source), self.mistakes):
            suffix = suffix_of(source)
            result = None if suffix is None else self.saver.path_of(source, suffix)
            if result is not None and os.path.lexists(result):
                raise ValueError(f"{result}: exists already, and is not replaced; choose another output folder (-o)")
            (key,) = self.loader.keys
            op_output.emit(Image(*image_of(self.loader({key: source})[key])), "image")


class SeriesWriterOperator(Operator):  # type: ignore[misc]
    """Writes ``image`` as a series derived from the one that :class:`SeriesReaderOperator` read; replaces nothing.

    Args:
        fragment: the application.
        saver: transform of the bundle, with its provenance set.
        mistakes: as for :class:`SuperResolutionOperator`.
    """

    def __init__(
        self, fragment: Fragment, *args: Any, saver: CaseSaveImaged, mistakes: list[str] | None = None, **kwargs: Any
    ) -> None:
        self.saver, self.mistakes = saver, mistakes
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """One input."""
        spec.input("image")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Save one image."""
        image = op_input.receive("image")
        name = str(image.metadata().get("filename_or_obj", "image"))
        with attempt(lambda: name, self.mistakes):
            if KEY not in image.metadata():
                raise ValueError(f"{name}: must come with its record, got none; read it by SeriesReaderOperator")
            (key,) = self.saver.keys
            saved = self.saver({key: volume_of(image.asnumpy(), image.metadata(), name)})[key]
            logger.info("%s: saved", saved.meta["saved_to"])


class SuperResolutionApp(Application):  # type: ignore[misc]
    """Every series below the input folder through the bundle into the output folder.

    Attributes:
        settings: of ``inference.json``, to be overridden; set before ``run``.
        mistakes: after ``run``, a sentence for each image that failed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.settings: dict[str, Any] = {}
        self.mistakes: list[str] = []
        super().__init__(*args, **kwargs)

    def compose(self) -> None:
        """Reader, network, writer."""
        context = Application.init_app_context(self.argv)
        sources, skipped = find_cases(context.input_path, context.output_path)
        for path, reason in skipped:
            logger.info("skipped %s: %s", path, reason)
        if not sources:
            raise ValueError(f"{context.input_path}: must hold an image, got {len(skipped)} skipped files; check -i")
        network = SuperResolutionOperator(
            self, app_context=context, settings=self.settings, mistakes=self.mistakes, name="network"
        )
        loader, saver, ticks = network.loader, network.saver, CountCondition(self, len(sources))
        saver.provenance = network.provenance
        reader = SeriesReaderOperator(
            self, ticks, sources=sources, loader=loader, saver=saver, mistakes=self.mistakes, name="reader"
        )
        writer = SeriesWriterOperator(self, saver=saver, mistakes=self.mistakes, name="writer")
        self.add_flow(reader, network, {("image", "image")})
        self.add_flow(network, writer, {("pred", "image")})


def main() -> None:
    """Run the application from the command line; exit code 1 where an image failed."""
    try:
        argv, settings = split_settings(sys.argv, OF_READER + OF_NETWORK)
        app = SuperResolutionApp([sys.executable, *argv])
        app.settings = settings
        with case_warnings_noted():
            app.run()
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    if app.mistakes:
        raise SystemExit(f"error: {len(app.mistakes)} images failed:\n" + "\n".join(f"  {m}" for m in app.mistakes))


if __name__ == "__main__":
    main()
