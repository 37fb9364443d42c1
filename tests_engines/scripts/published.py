"""Reads manifests by what their makers publish for Python: `published.py FILE ...`.

What Kubernetes itself defines is checked against its schemas. Others publish classes, which leave
out what they do not know: what these read has to be what they write.
"""

import json
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from kubeflow.training import ApiClient
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet
from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob

KUBERNETES = "1.28"


class Response:
    """As Kubeflow's client gets it from a cluster."""

    def __init__(self, document: Any) -> None:
        self.data = json.dumps(document)


def read_back(document: dict[str, Any]) -> Any:
    kind = document["kind"]
    if kind == "TFJob":
        client = ApiClient()
        read = client.deserialize(Response(document), "KubeflowOrgV1TFJob")
        return client.sanitize_for_serialization(read)
    model = {"JobSet": JobsetV1alpha2JobSet, "TrainJob": TrainerV1alpha1TrainJob}[kind]
    return model.from_dict(document).to_dict()


for path in sys.argv[1:]:
    for document in yaml.safe_load_all(Path(path).read_text()):
        if document["kind"] in ("Job", "Service"):
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        elif read_back(document) != document:
            sys.exit(f"{path}: {document} is read as {read_back(document)}")
        print(document["kind"])
