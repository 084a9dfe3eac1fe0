"""A bundle as an operator of MONAI Deploy, with right values and right geometry.

The SDK's MonaiBundleInferenceOperator casts results to uint8 and gives them the spacing of the input, so whoever puts a
bundle into an application of their own takes this one. Needs MONAI Deploy App SDK 4.0.0.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai.data import MetaTensor
from monai.deploy.core import AppContext, Fragment, Image, IOType
from monai.deploy.operators.monai_bundle_inference_operator import IOMapping, MonaiBundleInferenceOperator
from monai.transforms import Compose, Transform

from .config import config_sha256
from .errors import explain, find_mistake, noting
from .io.archive import sha256
from .io.deploy_image import image_of, volume_of
from .io.dicom.derived import Provenance
from .io.transforms import CaseLoadImaged, CaseSaveImaged
from .magnification import as_magnification
from .transforms.grid import RESIDUAL
from .weights import load_weights

logger = logging.getLogger("common.deploy")


class SuperResolutionOperator(MonaiBundleInferenceOperator):  # type: ignore[misc]
    """Image ``image`` to its super-resolved image ``pred``: float32 in the values of the input, on the SR grid.

    The bundle is the one that ``app_context`` names (``-m``, ``HOLOSCAN_MODEL_PATH``): the folder of a bundle, whose
    weights are checked and loaded as everywhere, or TorchScript that MONAI exported with ``inference.json`` inside.
    Images may come from any operator; see :func:`common.io.deploy_image.volume_of`.

    Args:
        fragment: the application.
        app_context: has the model.
        settings: of ``inference.json``, to be overridden.
        mistakes: gains a sentence for each image that fails, which is then left out; None to let the exception pass.

    Raises:
        ValueError: no such bundle, or its weights or settings are wrong.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        app_context: AppContext,
        settings: Mapping[str, Any] | None = None,
        mistakes: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.settings, self.mistakes = dict(settings or {}), mistakes
        ports = [IOMapping(name, Image, IOType.IN_MEMORY) for name in ("image", "pred")]
        super().__init__(
            fragment, *args, app_context=app_context, input_mapping=ports[:1], output_mapping=ports[1:], **kwargs
        )
        model = app_context.models.get(self.model_name) if app_context.models else None
        if model is None:
            raise ValueError(f"{app_context.model_path}: there is no model; pass -m BUNDLE_FOLDER or -m FILE.ts")
        self.bundle_path = _bundle_at(Path(model.path))
        self._init_config(self._bundle_config_names.config_names)
        if self.bundle_path.is_dir():
            model.predictor, digest = self._load_network()
        else:
            model.predictor, digest = model.predictor.to(self._device), sha256(self.bundle_path)
        meta, key = self.parser["_meta_"], "magnification" if "magnification" in self.parser else "scale"
        label = as_magnification(self.parser.get_parsed_content(key)).label
        self.provenance = Provenance(
            meta["name"], meta["version"], label, digest, config_sha256(self.parser.get()) or ""
        )
        self._init_completed = True

    def _init_config(self, config_names: Any) -> None:
        """Parse the bundle; keep the transforms that read and save, which the SDK leaves out."""
        name = str(self.bundle_path)
        try:
            super()._init_config(config_names)
            for transforms in ("preprocessing", "postprocessing"):
                self.parser.get_parsed_content(transforms)  # of an archive that has none the SDK makes nothing at all
        except Exception as error:
            reason = " ".join(str(find_mistake(error) or error).split())
            raise ValueError(
                f"{name}: must be the folder of a bundle, or its models/model.ts, of the code that runs here "
                f"({__name__}), got {reason}; start the bundle's own code"
            ) from error
        self._override(name)
        self.loader = _only(self.parser.get_parsed_content("preprocessing"), CaseLoadImaged, name)
        self.saver = _only(self.parser.get_parsed_content("postprocessing"), CaseSaveImaged, name)
        names, dropped = self._bundle_config_names, ["LoadImage", "SaveImage", "HostRealValues"]
        self._device, self._inferer = (self.parser.get_parsed_content(key) for key in ("device", names.inferer_name))
        self._preproc = self._get_compose(names.preproc_name, dropped)
        self._postproc = self._get_compose(names.postproc_name, dropped)

    def _override(self, name: str) -> None:
        for key, value in self.settings.items():
            if key not in self.parser.get():
                raise ValueError(f"{key}: must be a setting of {name}, got {value}; see its inference.json")
            if key == "ckpt_path" and not self.bundle_path.is_dir():
                raise ValueError(f"ckpt_path: {name} has weights of its own, got {value}; pass -m BUNDLE_FOLDER")
            self.parser[key] = value
        context = self.app_context
        self.parser["dataset_dir"], self.parser["output_dir"] = str(context.input_path), str(context.output_path)
        if self.bundle_path.is_dir():
            self.parser["bundle_root"] = str(self.bundle_path)

    def _load_network(self) -> tuple[Any, str]:
        network = self.parser.get_parsed_content("network")
        path, listed = self.parser.get_parsed_content("ckpt_path"), self.parser["_meta_"]["weights"]
        return network.eval(), load_weights(network, path, self.bundle_path, listed)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Receive, super-resolve and emit one image."""
        self._shown = "image"
        with attempt(lambda: self._shown, self.mistakes):
            super().compute(op_input, op_output, context)

    def predict(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """The SR volume of a batch of one; the inferer asks the network itself for its size multiple."""
        return self._inferer(data, self._model_network.predictor)

    def _receive_input(self, name: str, op_input: Any, context: Any) -> tuple[MetaTensor, dict[str, Any]]:
        image = op_input.receive(name)
        array, metadata = (image.asnumpy(), image.metadata()) if isinstance(image, Image) else (image, {})
        self._shown = str((metadata or {}).get("filename_or_obj", name))
        volume = volume_of(array, metadata, self._shown)
        channels = self._inputs[name]["num_channels"]
        if len(volume) != channels:
            raise ValueError(f"{self._shown}: the network takes {channels} channels, got {len(volume)}; hand in those")
        return volume, dict(volume.meta)

    def _send_output(self, value: Any, name: str, metadata: Any, op_output: Any, context: Any) -> None:
        """The stock operator casts to uint8 and sends the geometry of the input."""
        if value.meta.get(RESIDUAL) is not None:
            logger.info("%s: consistency residual %.2e of the range", self._shown, value.meta[RESIDUAL])
        op_output.emit(Image(*image_of(value)), name)


def _bundle_at(path: Path) -> Path:
    """``path``, or the one bundle in this folder of models, as an application package has it."""
    if not path.is_dir() or (path / "configs").is_dir():
        return path
    bundles = [folder for folder in sorted(path.iterdir()) if (folder / "configs").is_dir()]
    if len(bundles) != 1:
        raise ValueError(f"{path}: must be or hold one bundle with configs, got {len(bundles)}; pass -m BUNDLE_FOLDER")
    return bundles[0]


def _only(compose: Compose, kind: type[Transform], name: str) -> Any:
    found = [transform for transform in compose.transforms if isinstance(transform, kind)]
    if len(found) != 1:
        raise ValueError(f"{name}: must have one {kind.__module__}.{kind.__name__}, got {len(found)}; start its code")
    return found[0]


@contextmanager
def attempt(name: Callable[[], str], mistakes: list[str] | None) -> Iterator[None]:
    """Log warnings about one image; what is wrong with it becomes a sentence in ``mistakes``, where there are any."""
    notes: list[str] = []
    try:
        with noting(notes):
            yield
    except Exception as error:
        if mistakes is None:
            raise
        mistakes.append(explain(error, name()))
        logger.error("%s", mistakes[-1])
    for text in notes:
        logger.warning("%s: %s", name(), text)
