#!/usr/bin/env bash
#
# Starts the server, sends it a burst of requests at once, draws what became of
# them, and stops the server. `./run.sh --help` says what you can set.
#
# Bash 3.2 is enough: macOS has no later one.

if [ -z "${BASH_VERSION-}" ]; then
  echo 'run.sh: this needs bash; call it as ./run.sh or bash run.sh' >&2
  exit 2
fi
set -euo pipefail
export LC_ALL=C # curl, awk and time write 1.5, in every country
unset CDPATH    # cd would look there first

# To this file's folder. It may be a link, and macOS may lack readlink -f.
self=${BASH_SOURCE[0]}
while cd -P "$(dirname "$self")" && [ -L "${self##*/}" ]; do
  self=$(readlink "${self##*/}")
done

requests=${REQUESTS-13}
workers=${WORKERS-10}
sleep=${SLEEP-10}
timeout=${TIMEOUT-0}
keep=no
scratch=     # a folder, while it is ours to remove
server=      # the server's process, while it is ours to stop
clients=()   # the curls
watcher=     # the process that shows the burst live, while it does
url=         # where it listens, as soon as it says so

# A terminal that is up to it gets the burst live, and colours.
live=no green='' yellow='' red='' plain=''
if [ -t 1 ] && [ "${TERM-dumb}" != dumb ] &&
  stty size </dev/tty >/dev/null 2>&1; then
  live=yes
  if [ -z "${NO_COLOR-}" ]; then
    green=$'\033[32m' yellow=$'\033[33m' red=$'\033[31m' plain=$'\033[0m'
  fi
fi

usage() {
  cat <<'END'
usage: ./run.sh [--keep]

Builds the server, starts it, sends it a burst of requests at once, shows what
it prints, draws the burst, says how long it took, and stops the server.

  --keep    leave the server running, and say how to reach it
  --help    print this

Settings are environment variables, as in: SLEEP=1 ./run.sh

  REQUESTS  how many requests at once, 1 to 1000   (13)
  WORKERS   how many of them can sleep at a time   (10)
  SLEEP     how long each sleeps, in seconds       (10)
  PORT      where the server listens, 0: any free  (8888)
  HOST      its IP address                         (127.0.0.1)
  TIMEOUT   when each client leaves, in seconds    (0: never)
  NO_COLOR  if it says anything, no colour

Exit status: 0 if each request got its 200 and its message, otherwise 1, or
cargo's own if the build fails; 2 for a wrong option or setting; 128 and its
number after a signal, as 130 after Ctrl-C.
END
}

fail() {
  printf 'run.sh: %s\n' "$1" >&2
  exit "${2-1}"
}

# ----- stopping --------------------------------------------------------------

# Waits until the server has ended, for at most $1 seconds.
server_ends_within() {
  local tenths
  tenths=$(awk -v s="$1" 'BEGIN { print int(s * 10) }')
  while kill -0 "$server" 2>/dev/null; do
    show
    [ "$tenths" -gt 0 ] || return 1
    tenths=$((tenths - 1))
    sleep 0.1 || true
  done
  show
}

stop_clients() {
  if [ "${#clients[@]}" -gt 0 ]; then
    kill "${clients[@]}" 2>/dev/null || true
    clients=()
  fi
}

# Runs on every way out, so that no process and no file is left behind.
clean_up() {
  trap '' INT TERM HUP PIPE
  stop_clients
  unwatch
  if [ -n "$server" ] && kill -TERM "$server" 2>/dev/null; then
    # The server gives itself 30 seconds.
    server_ends_within 32 || kill -KILL "$server" 2>/dev/null || true
  fi
  [ -z "$scratch" ] || rm -rf "$scratch"
}

# The terminal has sent Ctrl-C to the server as well. A signal more would make
# it exit at once, so it gets the time to end what runs.
interrupted() {
  trap '' INT PIPE
  stop_clients
  unwatch
  if [ -n "$server" ] && [ -n "$url" ]; then
    # In `./run.sh | tee`, Ctrl-C has ended the reader as well.
    printf '\nstopping: what sleeps may wake up; Ctrl-C again ends it at once\n' || true
    server_ends_within "$(awk -v s="$sleep" 'BEGIN { print s + 2 }')" || true
  fi
  exit 130
}

# ----- the burst, live -------------------------------------------------------

# Where the burst is live, the server writes to a file. This prints what is new
# there, then the burst's line, all in place of the line that was there before.
# The cursor stays at its left: from there it can be erased as a whole, even if
# a window that has become narrower shows it as two.
show() {
  local line lines=
  [ "$live" = yes ] || return 0
  while IFS= read -r line <&4 || [ -n "$line" ]; do
    lines=$lines$line$'\n'
  done
  printf '\r\033[J%s%s\r' "$lines" "${1-}" || true
}

# Says how the requests are: a sign for each, and counts.
burst_line() {
  awk -v size="$(stty size </dev/tty)" -v seconds="$SECONDS" \
    -v requests="$requests" -v sleeping="$green" -v waiting="$yellow" \
    -v failed="$red" -v plain="$plain" '
    function signs(number, sign, colour,    text) {
      while (number-- > 0) text = text sign
      return text == "" ? "" : colour text plain
    }
    server && /^going to sleep/ { begun++ }
    server && /^done sleeping/ { done++ }
    !server && $2 == 200 { answered++ }
    !server && $2 != 200 { failures++ }
    END {
      # The server tells of a job before its client does, but not whose it is.
      # So what is done counts as answered, and what failed as begun.
      if (done > answered) answered = done
      if (answered > requests - failures) answered = requests - failures
      rest = requests - failures - answered
      sleep = begun - answered - failures
      if (sleep < 0) sleep = 0
      if (sleep > rest) sleep = rest
      wait = rest - sleep

      columns = substr(size, index(size, " ")) + 0
      if (!columns) columns = 80
      text = sprintf("%d s: %d answered, %d sleep, %d wait", \
        seconds, answered, sleep, wait)
      if (failures) text = text ", " failures " failed"
      room = columns - requests - 4
      if (room >= 7) {
        line = signs(answered, "+", plain) signs(sleep, "#", sleeping) \
          signs(wait, ".", waiting) signs(failures, "x", failed) "  "
        if (length(text) > room) text = seconds " s"
      }
      print " " line substr(text, 1, columns - 2)
    }' "$scratch/results" server=1 "$scratch/stdout"
}

# Keeps that as the last line. In the background, so that no request waits.
watch() {
  SECONDS=0
  while [ -e "$scratch/watched" ] && kill -0 $$ 2>/dev/null; do
    show "$(burst_line)"
    sleep 0.1
  done
}

unwatch() {
  if [ -n "$watcher" ]; then
    rm -f "$scratch/watched"
    wait "$watcher" 2>/dev/null || true
    watcher=
    show
  fi
}

# ----- the burst -------------------------------------------------------------

# The post's loop: one curl in the background for each request. curl, since a
# browser would not ask for the same page 13 times at once. -q and --noproxy
# keep your own settings for it out of this.
send_burst() {
  local i
  for ((i = 1; i <= requests; i++)); do
    curl -q -i -sS --noproxy '*' --max-time "$timeout" -o "$scratch/$i.answer" \
      -w "$i %{http_code} %{time_total}\n" "$url" \
      >>"$scratch/results" 2>"$scratch/$i.error" &
    clients+=($!)
  done
  wait "${clients[@]}" || true
  clients=()
}

# Prints a line a request: its number, status and seconds, and whether it has
# the message (1) or not (0).
results() {
  local i status seconds message
  while read -r i status seconds; do
    message=0
    if [ "$status" = 200 ] && grep -q '^msg to client ' "$scratch/$i.answer"; then
      message=1
    fi
    printf '%d %s %s %d\n' "$i" "$status" "$seconds" "$message"
  done <"$scratch/results"
}

# Draws what results prints, then the verdict. What a request needs beyond
# SLEEP seconds it has spent waiting. Fails if a request failed.
draw() {
  sort -k 3,3n -k 1,1n | awk -v total="$1" -v sleep="$sleep" \
    -v requests="$requests" -v workers="$workers" -v sleeping="$green" \
    -v waiting="$yellow" -v failed="$red" -v plain="$plain" '
    function bar(from, to, sign, colour,    text) {
      for (from++; from <= to; from++) text = text sign
      return text == "" ? "" : colour text plain
    }
    BEGIN {
      width = 48
      scale = total > 0 ? width / total : 0
      printf "\nrequest  %-48s  status  seconds\n", \
        "(. waits for a worker, # sleeps on one)"
    }
    {
      begin = int(($3 > sleep ? $3 - sleep : 0) * scale + 0.5)
      end = int($3 * scale + 0.5)
      if (end > width) end = width
      if ($4) {
        answered++
        drawn = bar(0, begin, ".", waiting) bar(begin, end, "#", sleeping)
      } else {
        drawn = bar(0, end, "x", failed)
      }
      drawn = drawn bar(end, width, " ", "")
      printf "%7d  %s  %6s  %7.2f\n", $1, drawn, $2, $3
    }
    END {
      rounds = int((requests + workers - 1) / workers)
      ideal = rounds * sleep
      printf "\n%d answered, %d failed, in %.2f s\n", answered, requests - answered, total
      printf "  ideal: %d round%s of %s s = %.2f s", rounds, \
        (rounds == 1 ? "" : "s"), sleep, ideal
      if (ideal > 0 && answered == requests)
        printf "; this was %.3f times that", total / ideal
      printf "\n  one at a time: %.2f s\n", requests * sleep
      exit answered == requests ? 0 : 1
    }'
}

# ----- all of it -------------------------------------------------------------

for argument in "$@"; do
  case $argument in
    --keep) keep=yes ;;
    --help | -h) usage && exit ;;
    *) fail "unknown option $argument; ./run.sh --help lists what there is" 2 ;;
  esac
done
case $requests in
  '' | 0* | *[!0-9]* | ?????*) requests=0 ;; # bash takes 010 for an 8
esac
if [ "$requests" -lt 1 ] || [ "$requests" -gt 1000 ]; then
  fail "REQUESTS='$REQUESTS' is not allowed; set it to 1 to 1000" 2
fi
case $timeout in
  *[!0-9.]* | *.*.* | '' | *. | .*)
    fail "TIMEOUT='$TIMEOUT' is not allowed; set it to seconds, as in 0.5" 2 ;;
esac
command -v cargo >/dev/null || fail 'cargo is missing; install Rust: https://rustup.rs'
command -v curl >/dev/null || fail 'curl is missing; install it: apt install curl, or brew install curl'

cargo build --release --locked

scratch=$(mktemp -d)
trap clean_up EXIT
trap interrupted INT
trap 'exit 129' HUP
trap 'exit 141' PIPE
trap 'exit 143' TERM

: >"$scratch/stderr" # or `ready` may look for it before the server has it
exec 3>&1
if [ "$live" = yes ]; then
  exec 3>"$scratch/stdout"
  exec 4<"$scratch/stdout"
fi
# cargo finds the program, wherever it has built it, and becomes it.
cargo run --release --locked --quiet >&3 2>"$scratch/stderr" &
server=$!

# The server is ready when it says where it listens and answers there. The path
# has no page: `/` would take a worker.
ready() {
  url=$(sed -n 's/^listening on //p' "$scratch/stderr")
  [ -n "$url" ] && curl -q -s --max-time 5 --noproxy '*' -o /dev/null "${url}ready"
}
tries=100
until ready; do
  tries=$((tries - 1))
  if [ "$tries" = 0 ] || ! kill -0 "$server" 2>/dev/null; then
    cat "$scratch/stderr" >&2
    fail 'the server did not start'
  fi
  sleep 0.1
done
printf 'listening on %s\n' "$url" # and not what cargo may have to warn of

printf '%s requests at once, %s workers, %s s of sleep:\n\n' "$requests" "$workers" "$sleep"
: >"$scratch/results"
if [ "$live" = yes ]; then
  : >"$scratch/watched"
  watch &
  watcher=$!
fi
TIMEFORMAT=%R
{ time send_burst; } 2>"$scratch/total"
unwatch
sed '$d' "$scratch/total" >&2 # what bash had to say before
awk 'up; /^listening on / { up = 1 }' "$scratch/stderr" # what it said since
verdict=0
results | draw "$(tail -n 1 "$scratch/total")" || verdict=1
# What the curls had to say. It would be the same, but for "after 502 ms".
cat "$scratch"/*.error | sed 's/ after [0-9]* m[a-z]*//' | sort | uniq -c

if [ "$keep" = yes ]; then
  printf '\nThe server goes on at %s\n' "$url"
  printf 'It writes to %s\n' "$scratch"/std*
  printf 'Stop it with: kill %s\n' "$server"
  rm -f "$scratch"/total "$scratch"/results "$scratch"/[0-9]*
  server='' scratch=''
fi
[ "$verdict" = 0 ]
