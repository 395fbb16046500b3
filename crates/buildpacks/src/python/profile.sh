# Written by the Python buildpack; sourced when a dyno starts.
export PATH="$HOME/.heroku/python/bin:$PATH"
export PYTHONUNBUFFERED=true
export LANG="${LANG:-C.UTF-8}"
export PYTHONPATH="${PYTHONPATH:-$HOME}"
# The dyno is only reached through the router, which sets these headers itself.
export FORWARDED_ALLOW_IPS='*'
export GUNICORN_CMD_ARGS="${GUNICORN_CMD_ARGS:---access-logfile -}"

# WEB_CONCURRENCY: as many processes as the memory has room for, 256 MB each, at most two a CPU and one more.
ferroku_memory_limit_bytes() {
	if [[ -n "${FERROKU_MEMORY_BYTES:-}" ]]; then
		echo "${FERROKU_MEMORY_BYTES}"
	elif [[ -r /sys/fs/cgroup/memory.max ]]; then
		cat /sys/fs/cgroup/memory.max
	elif [[ -r /sys/fs/cgroup/memory/memory.limit_in_bytes ]]; then
		cat /sys/fs/cgroup/memory/memory.limit_in_bytes
	fi
}
if [[ -z "${WEB_CONCURRENCY:-}" ]]; then
	ferroku_memory_bytes="$(ferroku_memory_limit_bytes)"
	# No limit is "max" on cgroup v2 and a number of 19 digits on v1.
	if [[ "${ferroku_memory_bytes}" =~ ^[0-9]{1,15}$ ]]; then
		export DYNO_RAM=$((ferroku_memory_bytes / 1048576))
		ferroku_by_memory=$((DYNO_RAM / 256))
		ferroku_by_cpu=$(($(nproc) * 2 + 1))
		WEB_CONCURRENCY=$((ferroku_by_memory < ferroku_by_cpu ? ferroku_by_memory : ferroku_by_cpu))
		export WEB_CONCURRENCY=$((WEB_CONCURRENCY < 1 ? 1 : WEB_CONCURRENCY))
		export WEB_CONCURRENCY_SET_BY=heroku/python
		unset ferroku_by_memory ferroku_by_cpu
	fi
	unset ferroku_memory_bytes
fi
unset -f ferroku_memory_limit_bytes
