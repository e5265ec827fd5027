/* The init of the side by side with another VMM (tests/bench/firecracker): sends back what comes
 * over its vsock connection to the host. A VMM that drops connections at a restore finds it
 * connecting again; one that carries them over never does.
 *
 * A message is four bytes, the number of pages to write to before it is sent back, of 4 MiB that
 * were all written to at the start.
 */
#define _GNU_SOURCE
#include <linux/vm_sockets.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 1024, HOST_PORT = 1024 };

static unsigned char ballast[PAGES][PAGE];

static int connected(void)
{
	struct sockaddr_vm host = {
		.svm_family = AF_VSOCK,
		.svm_cid = VMADDR_CID_HOST,
		.svm_port = HOST_PORT,
	};
	int end = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (end >= 0 && connect(end, (struct sockaddr *)&host, sizeof host) == 0)
		return end;
	close(end);
	return -1;
}

int main(void)
{
	uint32_t pages;
	int end = -1;

	memset(ballast, 0x5a, sizeof ballast);
	for (;;) {
		while (end < 0)
			end = connected();
		if (recv(end, &pages, sizeof pages, MSG_WAITALL) != sizeof pages) {
			close(end);
			end = -1;
			continue;
		}
		for (uint32_t page = 0; page < pages && page < PAGES; page++)
			ballast[page][0]++;
		send(end, &pages, sizeof pages, MSG_NOSIGNAL);
	}
}
