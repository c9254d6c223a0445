#!/usr/bin/env bash
# Sets up .venv next to this script on the first run, then starts Revoice:
#   ./go-web.sh [web]     starts the web UI (the default); options such as --port are passed to infer-web.py
#   ./go-web.sh test      runs linter, type checker and tests; --all (or CI=true) adds the slow tests; other arguments are passed to pytest
#   ./go-web.sh demo      trains a small demo model and converts a clip with it; options are passed to `train run`
#   ./go-web.sh convert   converts files and folders (python -m infer)
#   ./go-web.sh train     trains voices (python -m train)
set -eu
# PyTorch's own CPU builds save gigabytes on a Linux machine without an NVIDIA card. Where this address cannot be
# reached, the default build is installed, which is larger but otherwise the same.
torch_cpu_index=${REVOICE_TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUTF8=1
[ -t 2 ] || export PIP_QUIET=1 PIP_PROGRESS_BAR=off # not interactive; errors and the log remain
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
python=$here/.venv/bin/python
supported='import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))'

say() { printf '%s\n' "$*" >&2; }
fail() { say "go-web: $*"; exit 1; }

find_python() { # prints the path of a Python 3.10 to 3.13 that can make environments
  local name found=''
  for name in python3 python3.13 python3.12 python3.11 python3.10 python; do
    "$name" -c "$supported" 2>/dev/null || continue
    found=$name
    "$name" -c 'import ensurepip, venv' 2>/dev/null && { command -v "$name"; return; }
  done
  [ -z "$found" ] || fail "$found cannot make environments. Install its module venv" \
    "(Debian, Ubuntu: apt install python3-venv) and start again."
  fail "No Python 3.10 to 3.13 was found. Install one (Debian, Ubuntu: apt install python3 python3-venv)" \
    "and start again."
}

make_venv() {
  local base
  base=$(find_python) || exit 1
  rm -rf .venv
  mkdir .venv && : >.venv/unfinished && "$base" -m venv .venv || { rm -rf .venv; return 1; }
}

pip_install() { "$python" -m pip --no-input --log .venv/install.log install "$@"; }

has_torch() { # has_torch torch==VERSION ...: whether these versions are installed, of any build
  "$python" -c 'import sys
from importlib.metadata import version
wanted = dict(pin.split("==") for pin in sys.argv[1:])
sys.exit(any(version(name).split("+")[0] != wanted[name] for name in wanted))' "$@" 2>/dev/null
}

install_locked() { # install_locked PACKAGES LIST...: the packages of the lists, if the hashes of their files match
  # The files of a mirror that builds packages itself have other hashes: REVOICE_REQUIRE_HASHES=0 accepts them.
  # shellcheck disable=SC2086 # several words on purpose
  [ "${REVOICE_REQUIRE_HASHES:-1}" != 0 ] || { pip_install -c requirements.lock $1; return; }
  shift
  pip_install --no-deps --require-hashes "${@/#/--requirement=}"
}

install_torch() { # torch and torchaudio must be of the same build, hence one command for both
  local pins build
  pins=$(grep -E '^torch(audio)?==' requirements.txt)
  # For an old card or driver the default build, with CUDA 13, would not work; lib.nvidia explains why and selects another.
  build=$("$python" -m lib.nvidia) || build=''
  if [ "$(uname -s)" = Linux ] && [ "$build" = cu126 ]; then
    # shellcheck disable=SC2086 # two words on purpose, here and below
    pip_install --no-deps --index-url "https://download.pytorch.org/whl/$build" $pins >/dev/null && return
    say "  PyTorch's builds cannot be reached from here; installing the default build, which cannot use this GPU."
  fi
  if [ "$(uname -s)" = Linux ] && ! nvidia-smi -L >/dev/null 2>&1; then
    # shellcheck disable=SC2086
    pip_install --no-deps --retries 0 --timeout 15 --index-url "$torch_cpu_index" $pins >/dev/null 2>&1 && return
    say "  PyTorch's CPU builds cannot be reached from here; installing the default build."
  fi
  # shellcheck disable=SC2086
  has_torch $pins || install_locked "$pins" requirements-torch.lock
}

check_packages() {
  "$python" -W ignore -c 'import av, faiss, gradio, pydantic, pyworld, soundfile, torch, torchaudio, tyro'
}

step() { # step NUMBER TEXT COMMAND...
  local number=$1 text=$2
  shift 2
  say "Step $number of 4: $text ..."
  "$@" && return
  # When pip fails by itself it leaves the environment as it was; only a killed run leaves `unfinished` behind.
  [ "$number" = 4 ] || rm -f .venv/unfinished
  [ ! -e .venv/install.log ] || say "The complete log is $here/.venv/install.log."
  fail "Step $number of 4, $text, failed (the reason is above). Start again to repeat it."
}

stamp() { # what a finished environment was made from: Python's version and the lists of packages
  "$python" -c 'import sys; print(sys.version_info[:2])' 2>/dev/null
  cat requirements.txt requirements-dev.txt requirements.lock requirements-torch.lock requirements-run.lock \
    requirements-dev.lock | cksum
}

is_ready() { [ -x "$python" ] && [ -e ".venv/finished-$1" ] && [ "$(stamp)" = "$(cat ".venv/finished-$1")" ]; }

install() { # install run|test: makes or repairs .venv, which is trusted only for the finished-* files written last
  local list=requirements.txt hashed=requirements-run.lock
  [ "$1" = run ] || { list=requirements-dev.txt && hashed='requirements-run.lock requirements-dev.lock'; }
  if [ -e .venv/unfinished ] || ! "$python" -c "import pip; $supported" 2>/dev/null; then
    step 1 "making the environment .venv" make_venv
  fi
  : >.venv/unfinished
  rm -f .venv/install.log
  step 2 "installing torch" install_torch
  # shellcheck disable=SC2086
  step 3 "installing the other packages" install_locked "-r $list" $hashed
  step 4 "checking that the packages work" check_packages
  [ "$1" = run ] || stamp >.venv/finished-test
  stamp >.venv/finished-run
  rm -f .venv/unfinished .venv/install.log
}

ensure() ( # two starts at once take turns: the lock is on the folder itself and ends with this subshell
  cd "$here"
  if is_ready "$1"; then exit; fi
  trap 'exit 130' INT TERM HUP
  exec 9<.
  if command -v flock >/dev/null && ! flock -n 9; then
    say "Waiting for another start to finish installing ..."
    flock 9
  fi
  is_ready "$1" || install "$1"
)

module() { # module NAME ARGUMENTS...: python -m NAME, but from any folder, and importing nothing from that folder
  exec "$python" -c 'import runpy, sys; sys.path[:1] = [sys.argv.pop(1)]
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)' "$here" "$@"
}

demo() { # trains a voice on the shipped recordings, converts a clip with it, and prints metrics of the result
  local shipped=$here/pretrained/lite/demo
  cd "$here"
  "$python" -m train run demo --data "$shipped/voice" --family lite --max-minutes 5 --epochs 250 "$@"
  "$python" -m infer "$shipped/source.flac" --voice demo -o out/demo.wav --pitch-shift 5 --report --target "$shipped/voice"
}

run_tests() {
  local all=${CI:-} failed=''
  if [ "${1-}" = --all ]; then all=true && shift; fi
  cd "$here"
  export HF_HUB_OFFLINE=1 GRADIO_ANALYTICS_ENABLED=False OMP_NUM_THREADS=1
  "$python" -m ruff check --quiet || failed+=' ruff-check'
  "$python" -m ruff format --check --quiet || failed+=' ruff-format'
  "$python" -m mypy || failed+=' mypy'
  [ "$all" = true ] || set -- -m 'not slow' "$@"
  "$python" -m pytest -q -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder "$@" || failed+=' pytest'
  [ -z "$failed" ] || fail "failed:$failed"
}

case ${1-} in
  '') ensure run; exec "$python" "$here/infer-web.py" ;;
  web) shift; ensure run; exec "$python" "$here/infer-web.py" "$@" ;;
  test) shift; ensure test; run_tests "$@" ;;
  demo) shift; ensure run; demo "$@" ;;
  convert) shift; ensure run; module infer "$@" ;;
  train) shift; ensure run; module train "$@" ;;
  -h | --help | help) sed -n 's/^# \{0,1\}//; 2,7p' "$0" ;;
  -*) ensure run; exec "$python" "$here/infer-web.py" "$@" ;;
  *) fail "unknown word '$1'; use web, test, demo, convert or train (./go-web.sh --help explains them)" ;;
esac
