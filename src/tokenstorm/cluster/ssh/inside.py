"""The relay beside one of our jobs: for sites whose login node reaches no compute node."""

from tokenstorm.cluster.clusters import prelude
from tokenstorm.cluster.ssh.reach import SOURCE
from tokenstorm.config.profile import Profile

# The job that goes on the longest: any node of the cluster is reached from each of them. The step takes none of its
# memory and GPUs.
_BESIDE = """job=$(squeue ${M:+-M "$M"} --noheader --me --states=running --sort=-L --format='%i %j') || exit
job=$(printf '%s\\n' "$job" | sed -n 's/^\\([0-9]*\\) *tokenstorm-.*/\\1/p' | head -n 1)
[ -n "$job" ] || { echo "no job of tokenstorm's runs" >&2; exit 1; }
exec srun ${M:+-M "$M"} --quiet --overlap --jobid="$job" --nodes=1 --ntasks=1 --mem=0 --gres=none --input=0 --unbuffered "$@"
"""
_ANY_PYTHON = """for python; do case $python in '~/'*) python=$HOME/${python#'~/'};; esac; if command -v "$python" >/dev/null; then exec "$python" -c "$0"; fi; done
echo "there is no Python on the node: $*" >&2; exit 1"""


def beside_a_job(profile: Profile) -> tuple[str, ...]:
    """The command that runs the relay there, for the login node. It fails while no job of ours runs."""
    return (
        "bash",
        "-c",
        prelude(profile.cluster) + _BESIDE,
        "bash",
        "sh",
        "-c",
        _ANY_PYTHON,
        SOURCE,
        "python3",
        profile.of("cpu").python,
        profile.of("gpu").python,
    )
