"""Linux system calls that Python 3.11 lacks: mount, umount2, unshare, inotify."""
