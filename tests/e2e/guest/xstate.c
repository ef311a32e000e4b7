/*
 * Lets user-mode-linux run on processors with large vector registers. Loaded into it with LD_PRELOAD.
 *
 * Linux 6.1's user-mode port keeps a process's vector registers in 2696 bytes, which is all that AVX-512 needs. Where the machine has more
 * (AMX), its kernel refuses to set less than everything, and the guest dies at its first process. The guest's programs never touch what is
 * beyond, so it is set to its initial state: zeros.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static _Alignas(64) unsigned char whole[1 << 16];

long ptrace(enum __ptrace_request request, ...)
{
	static size_t size;
	va_list list;

	va_start(list, request);
	pid_t pid = va_arg(list, pid_t);
	void *addr = va_arg(list, void *);
	void *data = va_arg(list, void *);
	va_end(list);

	if (request == PTRACE_SETREGSET && (long)addr == NT_X86_XSTATE) {
		struct iovec *given = data;
		struct iovec full = { whole, sizeof(whole) };

		if (!size) {
			if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, addr, &full))
				return -1;
			size = full.iov_len;
			memset(whole, 0, sizeof(whole));
		}
		if (given->iov_len < size) {
			memcpy(whole, given->iov_base, given->iov_len);
			full.iov_len = size;
			return syscall(SYS_ptrace, request, pid, addr, &full);
		}
	}
	/* The system call has its own convention for what PEEK requests read; user-mode-linux uses none of them through here. */
	if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
		long value;

		if (syscall(SYS_ptrace, request, pid, addr, &value))
			return -1;
		return value;
	}
	return syscall(SYS_ptrace, request, pid, addr, data);
}
