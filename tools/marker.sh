# Which folders are ours to clear: sourced by the scripts here. A folder that make made carries a file that says so;
# no other folder is ever cleared or removed, whatever it is called and whoever named it.
marker=.made-by-yolov5-utils

is_ours() { # FOLDER
  [ -f "$1/$marker" ]
}

is_free() { # PATH: nothing is there, or an empty folder
  { [ ! -e "$1" ] && [ ! -L "$1" ]; } || { [ -d "$1" ] && [ -z "$(ls -A "$1")" ]; }
}

make_ours() { # FOLDER: marks it where it is new; one that holds something stays as it is
  is_free "$1" || return 0
  mkdir -p "$1"
  echo "made by the Makefile of yolov5_utils, which may clear and remove this folder" >"$1/$marker"
}

claim() { # FOLDER: to write into, unless it is somebody else's
  is_free "$1" || is_ours "$1" || {
    echo "error: $1 is there already, and nothing says that make made it: move it away" >&2
    return 1
  }
  make_ours "$1"
}

remove_ours() { # FOLDER
  if is_ours "$1"; then
    rm -rf "$1"
  elif ! is_free "$1"; then
    echo "$1 stays: make did not make it (there is no $1/$marker)"
  fi
}
