"""The kinds of Kubernetes and KubeRay that we write, as typed values: a mistyped field is an error here, not there.

Only the fields that are used; names are Kubernetes' own, in Python's spelling.
"""

from __future__ import annotations

from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


def _spelt(name: str) -> str:
    """Return a field's name as Kubernetes spells it."""
    return to_camel(name).replace("Yaml", "YAML")


class Kind(BaseModel):
    """Base of every value: frozen, and no field that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=_spelt, populate_by_name=True)

    def document(self) -> dict[str, Any]:
        """Return it as Kubernetes reads it, unset fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class OwnerReference(Kind):
    """Whose end takes this along."""

    api_version: str
    kind: str
    name: str
    uid: str


class Metadata(Kind):
    """Name, place and labels."""

    name: str | None = None
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: tuple[OwnerReference, ...] | None = None


class Named(Kind):
    """A reference by name."""

    name: str


class EnvVar(Kind):
    """An environment variable."""

    name: str
    value: str


class EnvFrom(Kind):
    """Environment variables of a secret's keys."""

    secret_ref: Named


class VolumeMount(Kind):
    """Where a container sees a volume."""

    name: str
    mount_path: str
    read_only: bool | None = None


class EmptyDir(Kind):
    """A folder that lives as long as its pod."""


class Claim(Kind):
    """A persistent volume claim."""

    claim_name: str


class Volume(Kind):
    """What containers of a pod may see."""

    name: str
    config_map: Named | None = None
    empty_dir: EmptyDir | None = None
    persistent_volume_claim: Claim | None = None


class Resources(Kind):
    """What is booked, and the most that may be used."""

    requests: dict[str, str]
    limits: dict[str, str] | None = None


class HttpGet(Kind):
    """A page that answers while its server is well."""

    path: str
    port: int


class Probe(Kind):
    """How it is seen whether a container is well."""

    http_get: HttpGet
    period_seconds: int
    timeout_seconds: int
    failure_threshold: int
    initial_delay_seconds: int | None = None


class Capabilities(Kind):
    """Of the kernel's."""

    drop: tuple[str, ...]


class SecurityContext(Kind):
    """What a container may do."""

    allow_privilege_escalation: bool = False
    capabilities: Capabilities = Capabilities(drop=("ALL",))


class SeccompProfile(Kind):
    """Which system calls are allowed."""

    type: str = "RuntimeDefault"


class PodSecurityContext(Kind):
    """As whom a pod runs."""

    run_as_non_root: bool = True
    run_as_user: int = 1000
    run_as_group: int = 1000
    fs_group: int = 1000
    seccomp_profile: SeccompProfile = SeccompProfile()


class Container(Kind):
    """A container."""

    name: str
    image: str
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    env: tuple[EnvVar, ...] | None = None
    env_from: tuple[EnvFrom, ...] | None = None
    resources: Resources
    volume_mounts: tuple[VolumeMount, ...] | None = None
    security_context: SecurityContext = SecurityContext()
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None


class PodToleration(Kind):
    """A taint that a pod puts up with."""

    key: str
    operator: Literal["Exists", "Equal"]
    value: str | None = None
    effect: str | None = None


class NodeRequirement(Kind):
    """A label that a node must have."""

    key: str
    operator: Literal["In"] = "In"
    values: tuple[str, ...]


class NodeTerm(Kind):
    """Requirements that must all be met."""

    match_expressions: tuple[NodeRequirement, ...]


class NodeSelector(Kind):
    """Terms of which one must be met."""

    node_selector_terms: tuple[NodeTerm, ...]


class NodeAffinity(Kind):
    """Which nodes."""

    required_during_scheduling_ignored_during_execution: NodeSelector


class Affinity(Kind):
    """Where pods are placed."""

    node_affinity: NodeAffinity


class PodSpec(Kind):
    """A pod."""

    service_account_name: str
    automount_service_account_token: bool | None = None
    containers: tuple[Container, ...]
    volumes: tuple[Volume, ...] | None = None
    node_selector: dict[str, str] | None = None
    tolerations: tuple[PodToleration, ...] | None = None
    affinity: Affinity | None = None
    image_pull_secrets: tuple[Named, ...] | None = None
    security_context: PodSecurityContext = PodSecurityContext()
    termination_grace_period_seconds: int | None = None
    restart_policy: Literal["Always", "Never"] | None = None


class PodTemplate(Kind):
    """What pods are made of."""

    metadata: Metadata | None = None
    spec: PodSpec


class HeadGroup(Kind):
    """The head of a Ray cluster."""

    ray_start_params: dict[str, str]
    template: PodTemplate


class WorkerGroup(Kind):
    """Workers of one shape; a replica is a pod."""

    group_name: str
    replicas: int
    min_replicas: int
    max_replicas: int
    ray_start_params: dict[str, str]
    labels: dict[str, str] | None = None
    """Of Ray's nodes; KubeRay refuses them among `ray_start_params`."""
    template: PodTemplate


class AutoscalerOptions(Kind):
    """How the cluster grows and shrinks."""

    version: Literal["v2"] = "v2"
    idle_timeout_seconds: int
    security_context: SecurityContext = SecurityContext()
    resources: Resources


class AuthOptions(Kind):
    """Who may use a Ray cluster: with `token`, KubeRay makes one and hands it to the pods."""

    mode: Literal["token"] = "token"


class RayClusterSpec(Kind):
    """A Ray cluster."""

    ray_version: str
    auth_options: AuthOptions = AuthOptions()
    enable_in_tree_autoscaling: bool = True
    autoscaler_options: AutoscalerOptions
    head_group_spec: HeadGroup
    worker_group_specs: tuple[WorkerGroup, ...]


class SubmitterConfig(Kind):
    """How often the pod that submits is tried."""

    backoff_limit: int


class RayJobSpec(Kind):
    """A run on a Ray cluster of its own."""

    entrypoint: str
    runtime_env_yaml: str
    submission_mode: Literal["K8sJobMode"] = "K8sJobMode"
    submitter_config: SubmitterConfig
    submitter_pod_template: PodTemplate
    shutdown_after_job_finishes: bool = True
    ttl_seconds_after_finished: int
    backoff_limit: int
    active_deadline_seconds: int | None = None
    ray_cluster_spec: RayClusterSpec


class RayJob(Kind):
    """KubeRay's job."""

    api_version: Literal["ray.io/v1"] = "ray.io/v1"
    kind: Literal["RayJob"] = "RayJob"
    metadata: Metadata
    spec: RayJobSpec


class RayCronJobSpec(Kind):
    """When a RayJob is made; there is no policy of overlaps: the dataset's lease is one."""

    schedule: str
    time_zone: str | None = None
    job_template: RayJobSpec


class RayCronJob(Kind):
    """KubeRay's schedule: alpha, behind a feature gate, from KubeRay 1.6."""

    api_version: Literal["ray.io/v1"] = "ray.io/v1"
    kind: Literal["RayCronJob"] = "RayCronJob"
    metadata: Metadata
    spec: RayCronJobSpec


class JobSpec(Kind):
    """A pod that is run to its end."""

    backoff_limit: int
    active_deadline_seconds: int | None = None
    ttl_seconds_after_finished: int
    template: PodTemplate


class JobTemplate(Kind):
    """What jobs of a schedule are made of."""

    spec: JobSpec


class CronJobSpec(Kind):
    """A schedule that never runs twice at once."""

    schedule: str
    time_zone: str | None = None
    concurrency_policy: Literal["Forbid"] = "Forbid"
    starting_deadline_seconds: int
    successful_jobs_history_limit: int
    failed_jobs_history_limit: int
    job_template: JobTemplate


class CronJob(Kind):
    """Kubernetes' own schedule."""

    api_version: Literal["batch/v1"] = "batch/v1"
    kind: Literal["CronJob"] = "CronJob"
    metadata: Metadata
    spec: CronJobSpec


class ConfigMap(Kind):
    """Files that pods see."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["ConfigMap"] = "ConfigMap"
    metadata: Metadata
    data: dict[str, str]


class Selector(Kind):
    """Pods by their labels."""

    match_labels: dict[str, str]


class DisruptionSpec(Kind):
    """How many pods may be taken away on purpose."""

    max_unavailable: int
    selector: Selector


class PodDisruptionBudget(Kind):
    """What a cluster's keepers may take away, and what not."""

    api_version: Literal["policy/v1"] = "policy/v1"
    kind: Literal["PodDisruptionBudget"] = "PodDisruptionBudget"
    metadata: Metadata
    spec: DisruptionSpec


def to_yaml(*values: Kind) -> str:
    """Return manifests as one file."""
    return yaml.safe_dump_all([v.document() for v in values], sort_keys=False, explicit_start=True, width=120)
