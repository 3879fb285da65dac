"""Processes that find each other as Slurm's tasks do."""


def task(index: int, job: int) -> dict[str, str]:
    """The environment of one of two tasks on this machine; `job` decides the port."""
    return {
        "SLURM_JOB_ID": str(job),
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
    }
