// Docker's default set and ours:
//
//   chown dac_override fsetid fowner   files of the container, whoever owns them                 kept
//   setuid setgid kill                 servers that start as root and become somebody else       kept
//   setfcap                            package managers                                          kept
//   net_bind_service sys_chroot        ports below 1024; sshd and friends                        kept
//   mknod                              no device can be opened on our mounts (nodev)             dropped
//   net_raw                            forged packets; ping works without it                     dropped
//   setpcap                            would give nothing that is not there anyway               dropped
//   audit_write                        writes into the host's log                                dropped
#include "caps.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BIT(cap) (UINT32_C(1) << (cap))

static const uint32_t allowed = BIT(CAP_CHOWN) | BIT(CAP_DAC_OVERRIDE) | BIT(CAP_FSETID) | BIT(CAP_FOWNER) |
				BIT(CAP_SETGID) | BIT(CAP_SETUID) | BIT(CAP_SETFCAP) | BIT(CAP_NET_BIND_SERVICE) |
				BIT(CAP_SYS_CHROOT) | BIT(CAP_KILL);

static int drop_bounding(void)
{
	// Up to the last one this kernel knows, which may be newer than our headers.
	for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++) {
		if (cap < 32 && (allowed & BIT(cap)))
			continue;
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			return -1;
	}
	return 0;
}

int caps_confine(void)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {{.effective = allowed, .permitted = allowed}};

	if (drop_bounding() < 0)
		return -1;
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return -1;
	return (int)syscall(SYS_capset, &header, data);
}
