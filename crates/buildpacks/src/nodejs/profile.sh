# Sourced when a dyno starts.
export PATH="${HOME}/.heroku/node/bin:${HOME}/.heroku/yarn/bin:${HOME}/.heroku/pnpm/bin:${HOME}/bin:${HOME}/node_modules/.bin:${PATH}"
export NODE_HOME="${HOME}/.heroku/node"
export NODE_ENV="${NODE_ENV:-production}"

# WEB_CONCURRENCY: as many processes as the memory has room for, WEB_MEMORY MB each, at most 200.
ferroku_memory_limit_bytes() {
	if [[ -n "${FERROKU_MEMORY_BYTES:-}" ]]; then
		echo "${FERROKU_MEMORY_BYTES}"
	elif [[ -r /sys/fs/cgroup/memory.max ]]; then
		cat /sys/fs/cgroup/memory.max
	elif [[ -r /sys/fs/cgroup/memory/memory.limit_in_bytes ]]; then
		cat /sys/fs/cgroup/memory/memory.limit_in_bytes
	fi
}
if [[ -z "${MEMORY_AVAILABLE:-}" ]]; then
	MEMORY_AVAILABLE="$(ferroku_memory_limit_bytes)"
	# No limit is "max" on cgroup v2 and a number of 19 digits on v1; Heroku then reckons with 512 MB.
	if [[ "${MEMORY_AVAILABLE}" =~ ^[0-9]{1,15}$ ]]; then
		MEMORY_AVAILABLE=$((MEMORY_AVAILABLE / 1048576))
	else
		MEMORY_AVAILABLE=512
	fi
fi
export MEMORY_AVAILABLE
# Above 16 GB, where a heap may be larger, 2048.
if [[ -z "${WEB_MEMORY:-}" ]]; then
	WEB_MEMORY=$((MEMORY_AVAILABLE > 16384 ? 2048 : 512))
fi
export WEB_MEMORY
if [[ -z "${WEB_CONCURRENCY:-}" ]]; then
	WEB_CONCURRENCY=$((MEMORY_AVAILABLE / WEB_MEMORY))
	WEB_CONCURRENCY=$((WEB_CONCURRENCY > 200 ? 200 : WEB_CONCURRENCY))
	export WEB_CONCURRENCY=$((WEB_CONCURRENCY < 1 ? 1 : WEB_CONCURRENCY))
fi
unset -f ferroku_memory_limit_bytes
