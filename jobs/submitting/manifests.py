"""A job as manifests: one set of resources of the recipe's becomes a RayJob, a RayCronJob or a plain CronJob."""

from __future__ import annotations

import shlex
from typing import Any

import yaml

from jobs.submitting import kinds as k
from jobs.submitting.job import Job
from pipeline.domain.compute import Compute
from pipeline.domain.errors import UserError

RECIPE_FOLDER = "/etc/facemint"
RECIPE_PATH = f"{RECIPE_FOLDER}/recipe.yaml"
DRAIN_S = 40
"""Between the signal that ends a driver and the kill: units in hand have 14 s of it, the rest is for letting go."""
PART_OF = {"app.kubernetes.io/name": "facemint", "app.kubernetes.io/managed-by": "facemint-submit"}
JOB, ROLE = "facemint.io/job", "facemint.io/role"
SPOT_LABELS = {
    "cloud.google.com/gke-spot": "true",
    "kubernetes.azure.com/scalesetpriority": "spot",
    "eks.amazonaws.com/capacityType": "SPOT",
    "karpenter.sh/capacity-type": "spot",
}
"""How clouds mark nodes that they may take away; taints of the same key and value keep others off them."""


def ray_version() -> str:
    """Return the version that this facemint runs on, which an image of it has too."""
    from importlib.metadata import version

    return version("ray")


def require_renderable(job: Job) -> None:
    """Refuse what pods could not do.

    Raises:
        UserError: no image, an executor without a cluster, or a place that pods do not see.
    """
    its = job.compute.kubernetes
    if its.image is None:
        raise UserError("compute.kubernetes.image: left out; name the image that pods are made of (infra/Dockerfile)")
    if job.compute.executor != "ray":
        raise UserError("compute.executor: got 'inline'; on Kubernetes a Ray cluster does the work: set ray")
    under = job.out == its.data_path or job.out.startswith(f"{its.data_path}/")
    if "://" not in job.out and not (its.data_claim and under):
        raise UserError(
            f"--out {job.out}: a folder of this machine, which pods do not see; give s3://bucket/set, or a path below "
            f"{its.data_path} with compute.kubernetes.data_claim"
        )


def ray_job(job: Job, name: str) -> k.RayJob:
    """Return a run with a Ray cluster of its own."""
    return k.RayJob(metadata=_metadata(job, name), spec=_ray_job_spec(job, name, name))


def ray_cron_job(job: Job, name: str, schedule: str, time_zone: str | None) -> k.RayCronJob:
    """Return a schedule of such runs, for clusters that have KubeRay's alpha feature."""
    spec = k.RayCronJobSpec(schedule=schedule, time_zone=time_zone, job_template=_ray_job_spec(job, name, name))
    return k.RayCronJob(metadata=_metadata(job, name), spec=spec)


def cron_job(job: Job, name: str, schedule: str, time_zone: str | None) -> k.CronJob:
    """Return a schedule whose pod submits a RayJob and waits for its end, for any cluster with KubeRay."""
    words = ["submit", RECIPE_PATH, "--out", job.out, "--on", "kuberay", "--if-busy", job.if_busy]
    inner = k.Container(
        name="submit",
        image=_image(job),
        args=(*words, *(("--", *job.arguments) if job.arguments else ())),
        command=job.program,
        env_from=_env_from(job.compute),
        resources=_resources(cpus="250m", memory="1Gi"),
        volume_mounts=_mounts(job.compute),
    )
    pod = _pod(job.compute, name, inner, restart_policy="Never", automount_service_account_token=True)
    limit_s = _seconds(job.compute)
    return k.CronJob(
        metadata=_metadata(job, name),
        spec=k.CronJobSpec(
            schedule=schedule,
            time_zone=time_zone,
            starting_deadline_seconds=3600,
            successful_jobs_history_limit=3,
            failed_jobs_history_limit=7,
            job_template=k.JobTemplate(
                spec=k.JobSpec(
                    backoff_limit=0,
                    active_deadline_seconds=limit_s + 1800 if limit_s else None,
                    ttl_seconds_after_finished=7 * 24 * 3600,
                    template=k.PodTemplate(metadata=_labelled(name, "submit"), spec=pod),
                )
            ),
        ),
    )


def recipe_map(job: Job, name: str, owner: k.OwnerReference | None = None) -> k.ConfigMap:
    """Return the recipe as a file for pods."""
    return k.ConfigMap(metadata=_metadata(job, name, owner), data={"recipe.yaml": job.recipe_yaml()})


def head_budget(job: Job, name: str, owner: k.OwnerReference | None = None) -> k.PodDisruptionBudget:
    """Return what keeps a node with the driver on it from being drained while it works; workers may go."""
    chosen = k.Selector(match_labels={JOB: name, ROLE: "head"})
    return k.PodDisruptionBudget(
        metadata=_metadata(job, name, owner), spec=k.DisruptionSpec(max_unavailable=0, selector=chosen)
    )


def _ray_job_spec(job: Job, name: str, config: str) -> k.RayJobSpec:
    compute = job.compute
    submitter = k.Container(name="ray-job-submitter", image=_image(job), resources=_resources("250m", "1Gi"))
    return k.RayJobSpec(
        entrypoint=job.entrypoint(RECIPE_PATH, address="auto"),
        runtime_env_yaml=yaml.safe_dump({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(DRAIN_S)}}),
        submitter_config=k.SubmitterConfig(backoff_limit=2),
        submitter_pod_template=k.PodTemplate(
            metadata=_labelled(name, "submitter"),
            spec=_pod(compute, config, submitter, bare=True, restart_policy="Never"),
        ),
        ttl_seconds_after_finished=600,
        # a lost head is a lost driver: the next cluster goes on from what is committed
        backoff_limit=0 if _is_limited(job) else 2,
        active_deadline_seconds=_seconds(compute),
        ray_cluster_spec=ray_cluster(job, name, config),
    )


def _is_limited(job: Job) -> bool:
    """Return whether a run has a budget or a deadline: KubeRay takes status 6 for a failure, and a try more would
    spend the budget once more.
    """
    limits = (job.compute.deadline, *job.compute.budget.model_dump().values())
    return any(x is not None for x in limits) or any(a.startswith(("--budget", "--deadline")) for a in job.arguments)


def ray_cluster(job: Job, name: str, config: str) -> k.RayClusterSpec:
    """Return a cluster whose head works no units, and whose workers come and go."""
    compute, its = job.compute, job.compute.kubernetes
    head = k.Container(
        name="ray-head",
        image=_image(job),
        env=_env(compute),
        env_from=_env_from(compute),
        resources=_resources(_number(its.head_cpus), _gib(its.head_memory_gib)),
        volume_mounts=_mounts(compute),
        liveness_probe=_probe("/api/gcs_healthz", 8265, 12),
        readiness_probe=_probe("/api/gcs_healthz", 8265, 5),
    )
    worker = k.Container(
        name="ray-worker",
        image=_image(job),
        env=_env(compute),
        env_from=_env_from(compute),
        resources=_worker_resources(compute),
        volume_mounts=_mounts(compute),
        liveness_probe=_probe("/api/local_raylet_healthz", 52365, 12),
        readiness_probe=_probe("/api/local_raylet_healthz", 52365, 5),
    )
    return k.RayClusterSpec(
        ray_version=ray_version(),
        autoscaler_options=k.AutoscalerOptions(idle_timeout_seconds=120, resources=_resources("250m", "512Mi")),
        head_group_spec=k.HeadGroup(
            # the autoscaler asks the API server for workers, and runs beside the head
            ray_start_params={"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0"},  # noqa: S104 - inside a pod
            template=k.PodTemplate(
                metadata=_labelled(name, "head"),
                spec=_pod(compute, config, head, automount_service_account_token=True),
            ),
        ),
        worker_group_specs=(
            k.WorkerGroup(
                group_name="workers",
                replicas=compute.min_nodes,
                min_replicas=compute.min_nodes,
                max_replicas=compute.nodes,
                ray_start_params=_worker_params(compute),
                # the node selector sees to it that a pod's node has them; workers ask Ray for the same
                labels=dict(compute.node_labels) or None,
                template=k.PodTemplate(
                    metadata=_labelled(name, "worker"), spec=_pod(compute, config, worker, **_placement(compute))
                ),
            ),
        ),
    )


def _worker_params(compute: Compute) -> dict[str, str]:
    # said in bytes, not left to be reckoned: what the workers of a node book fits it to the last one
    memory = {"memory": str(compute.node_memory_mib * 2**20)} if compute.node_memory_mib else {}
    return {"num-cpus": str(compute.node_cpus), "num-gpus": str(compute.node_gpus), **memory}


def _worker_resources(compute: Compute) -> k.Resources:
    memory = f"{compute.node_memory_mib}Mi" if compute.node_memory_mib else None
    gpus = {compute.kubernetes.gpu_resource: str(compute.node_gpus)} if compute.node_gpus else {}
    requests = {"cpu": str(compute.node_cpus), **({"memory": memory} if memory else {}), **gpus}
    # no limit of CPUs: a throttled worker is slower and not cheaper; devices need one, and memory keeps neighbours safe
    limits = {**({"memory": memory} if memory else {}), **gpus}
    return k.Resources(requests=requests, limits=limits or None)


def _placement(compute: Compute) -> dict[str, Any]:
    its = compute.kubernetes
    tolerations = [
        k.PodToleration(key=t.key, operator="Exists" if t.value is None else "Equal", value=t.value, effect=t.effect)
        for t in its.tolerations
    ]
    if compute.node_gpus:
        tolerations.append(k.PodToleration(key=its.gpu_resource, operator="Exists", effect="NoSchedule"))
    affinity = None
    if compute.spot:
        tolerations += [k.PodToleration(key=key, operator="Equal", value=v) for key, v in SPOT_LABELS.items()]
        terms = tuple(
            k.NodeTerm(match_expressions=(k.NodeRequirement(key=key, values=(v,)),)) for key, v in SPOT_LABELS.items()
        )
        chosen = k.NodeSelector(node_selector_terms=terms)
        affinity = k.Affinity(node_affinity=k.NodeAffinity(required_during_scheduling_ignored_during_execution=chosen))
    return {
        "tolerations": tuple(tolerations) or None,
        "affinity": affinity,
        "node_selector": dict(compute.node_labels) or None,
        "automount_service_account_token": False,
    }


def _pod(compute: Compute, config: str, container: k.Container, *, bare: bool = False, **more: Any) -> k.PodSpec:
    its = compute.kubernetes
    volumes = [] if bare else [k.Volume(name="recipe", config_map=k.Named(name=config))]
    if not bare and compute.model_cache:
        claim = k.Claim(claim_name=its.cache_claim) if its.cache_claim else None
        empty = None if claim else k.EmptyDir()
        volumes.append(k.Volume(name="models", persistent_volume_claim=claim, empty_dir=empty))
    if not bare and its.data_claim:
        volumes.append(k.Volume(name="data", persistent_volume_claim=k.Claim(claim_name=its.data_claim)))
    return k.PodSpec(
        service_account_name=its.service_account,
        containers=(container,),
        volumes=tuple(volumes) or None,
        image_pull_secrets=(k.Named(name=its.pull_secret),) if its.pull_secret else None,
        termination_grace_period_seconds=more.pop("termination_grace_period_seconds", DRAIN_S + 20),
        **more,
    )


def _mounts(compute: Compute) -> tuple[k.VolumeMount, ...]:
    mounts = [k.VolumeMount(name="recipe", mount_path=RECIPE_FOLDER, read_only=True)]
    if compute.model_cache:
        mounts.append(k.VolumeMount(name="models", mount_path=compute.model_cache))
    if compute.kubernetes.data_claim:
        mounts.append(k.VolumeMount(name="data", mount_path=compute.kubernetes.data_path))
    return tuple(mounts)


def _env(compute: Compute) -> tuple[k.EnvVar, ...]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return tuple(
        k.EnvVar(name=name, value=value)
        for name, value in {**threads, **_models(compute), "RAY_USAGE_STATS_ENABLED": "0"}.items()
    )


def _models(compute: Compute) -> dict[str, str]:
    """Return where weights are; a folder that every pod has of its own is empty at first, and filled by its run."""
    if compute.model_cache is None:
        return {}
    empty = {} if compute.kubernetes.cache_claim else {"FACEMINT_FETCH": "1"}
    return {"FACEMINT_MODELS": compute.model_cache, **empty}


def _env_from(compute: Compute) -> tuple[k.EnvFrom, ...] | None:
    secret = compute.kubernetes.credentials
    return (k.EnvFrom(secret_ref=k.Named(name=secret)),) if secret else None


def _resources(cpus: str, memory: str) -> k.Resources:
    return k.Resources(requests={"cpu": cpus, "memory": memory}, limits={"memory": memory})


def _probe(path: str, port: int, failures: int) -> k.Probe:
    get = k.HttpGet(path=path, port=port)
    return k.Probe(
        http_get=get, initial_delay_seconds=20, period_seconds=10, timeout_seconds=5, failure_threshold=failures
    )


def _metadata(job: Job, name: str, owner: k.OwnerReference | None = None) -> k.Metadata:
    its = job.compute.kubernetes
    queue = {"kueue.x-k8s.io/queue-name": its.queue} if its.queue else {}
    return k.Metadata(
        name=name,
        namespace=its.namespace,
        labels={**PART_OF, JOB: name, **queue},
        annotations={"facemint.io/out": job.out, "facemint.io/arguments": shlex.join(job.arguments)},
        owner_references=(owner,) if owner else None,
    )


def _labelled(name: str, role: str) -> k.Metadata:
    return k.Metadata(labels={**PART_OF, JOB: name, ROLE: role})


def _image(job: Job) -> str:
    return job.compute.kubernetes.image or ""


def _seconds(compute: Compute) -> int | None:
    return compute.time_limit_min * 60 if compute.time_limit_min else None


def _number(value: float) -> str:
    return f"{value:g}" if value == int(value) else f"{round(value * 1000)}m"


def _gib(value: float) -> str:
    return f"{round(value * 1024)}Mi"
