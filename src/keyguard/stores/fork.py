"""The same as `keyguard.fork`, under its former name."""

from keyguard.fork import check_process as check_process
from keyguard.fork import renew_after_fork as renew_after_fork
