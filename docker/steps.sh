#!/bin/sh
# Steps of an image's build, shared by all images: steps.sh packages NAME... | environment | list FILE | seal
# Online by default; with a wheelhouse in /inputs/wheels no step needs a network, if the base holds the packages already.
set -eu
bundle=/opt/bundle
tools=/tmp/tools
wheels=/inputs/wheels
# What a worker imports, of what runtime.lock pins; reports and downloads are made outside. A test compares it with the imports.
worker="llama-cpp-python msgspec numpy psutil diskcache jinja2 markupsafe typing-extensions"

die() { printf 'steps.sh: %s\n' "$*" >&2; exit 1; }

packages() { # packages NAME...: install what the base lacks
    missing=
    for name; do
        dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing="$missing $name"
    done
    [ -n "$missing" ] || return 0
    set -- -o Acquire::Retries=3
    [ ! -e /inputs/ca.crt ] || set -- "$@" -o Acquire::https::CAInfo=/inputs/ca.crt
    export DEBIAN_FRONTEND=noninteractive
    apt-get "$@" update -qq || die "the base lacks$missing and no package server answers -> a base that holds them, or a proxy"
    # shellcheck disable=SC2086  # names of packages, one word each
    apt-get "$@" install -y -qq --no-install-recommends $missing
    rm -rf /var/lib/apt/lists/* /var/cache/apt/archives /var/log/apt /var/log/dpkg.log /var/cache/ldconfig/aux-cache
}

pip_here() { # pip_here ARGUMENT...: the pinned pip of the tools, online or from the wheelhouse
    set -- "$@" --disable-pip-version-check --no-cache-dir --quiet
    [ ! -d "$wheels" ] || set -- "$@" --no-index --find-links "$wheels"
    [ ! -e /inputs/ca.crt ] || export PIP_CERT=/inputs/ca.crt
    "$tools/bin/python" -m pip "$@"
}

make_tools() { # pip and build tools of build.lock, apart from what the image will hold
    python3.11 -m venv --without-pip "$tools"
    if [ -d "$wheels" ]; then
        PYTHONPATH=$(find "$wheels" -name 'pip-*.whl')
        [ -n "$PYTHONPATH" ] || die "the wheelhouse holds no pip -> fill it from requirements/build.lock"
        export PYTHONPATH
    else
        packages python3.11-venv
        "$tools/bin/python" -m ensurepip --default-pip >/dev/null
    fi
    pip_here install --require-hashes -r requirements/build.lock
    unset PYTHONPATH
}

llama_wheel() { # compile llama.cpp, or take the wheel that somebody compiled before; its path into $wheel
    wheel=$(find "$wheels" -name 'llama_cpp_python-*-linux_*.whl' 2>/dev/null | head -n 1)
    made_by="taken from the wheelhouse, flags not known here"
    if [ -z "$wheel" ]; then
        made_by="compiled here with CMAKE_ARGS=$CMAKE_ARGS"
        packages gcc g++
        PATH=$tools/bin:$PATH pip_here wheel --require-hashes --no-deps --no-build-isolation -w /tmp/made -r /tmp/llama.lock
        wheel=$(find /tmp/made -name 'llama_cpp_python-*.whl')
    fi
}

locked() { # locked "NAME...": these packages' lines of the lock, hashes included
    awk -v names=" $1 " '/^[a-z0-9]/ { split($1, part, "=="); ours = index(names, " " part[1] " ") } ours' requirements/runtime.lock
}

environment() { # the environment in $bundle/venv, without pip and without tools
    locked llama-cpp-python >/tmp/llama.lock
    locked "${worker#llama-cpp-python }" >/tmp/rest.lock
    make_tools
    llama_wheel
    python3.11 -m venv --without-pip "$bundle/venv"
    pip_here --python "$bundle/venv/bin/python" install --require-hashes --no-deps -r /tmp/rest.lock
    pip_here --python "$bundle/venv/bin/python" install --no-index --no-deps "$wheel"
    {
        printf 'llama.cpp: %s\n' "$made_by"
        sha256sum "$wheel" | sed 's, .*/, ,'
        "$bundle/venv/bin/python" --version
        "${CC:-cc}" --version 2>/dev/null | head -n 1 || true
    } >"$bundle/BUILD"
}

list() { # list NAME: what of the distribution is inside, with versions
    mkdir -p "$bundle"
    dpkg-query -W -f '${Package} ${Version}\n' >"$bundle/$1"
    touch -d "@${SOURCE_DATE_EPOCH:-0}" "$bundle/$1" "$bundle"
}

seal() { # modes and times that do not differ between two builds of one commit
    chmod -R a+rX,go-w "$bundle"
    find "$bundle" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
}

step=$1
shift
"$step" "$@"
