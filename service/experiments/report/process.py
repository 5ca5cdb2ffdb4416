"""A report made by a process of its own: `python -m service.experiments.report.process`, started by service/reports.py.

The request stands in a variable, as JSON; the report goes to standard output. A sentence on standard error and status
REFUSED say that there is none for this request, status CANNOT that this installation makes none.
"""

import os
import sys

import msgspec

from model.logs.events import DataError
from service.errors import ConfigurationError, RecallError
from service.reports import CANNOT, ENVIRONMENT, REFUSED, ReportRequest

NICENESS = 10  # requests go before reports


def main() -> None:
    os.nice(NICENESS)
    request = msgspec.json.decode(os.environ[ENVIRONMENT], type=ReportRequest)
    try:
        # it needs the extra `analysis`, the absence of which is a sentence too
        from service.experiments.report.answer import answer  # noqa: PLC0415
    except ConfigurationError as error:
        _end(error, CANNOT)
    try:
        sys.stdout.buffer.write(answer(request))
    except (RecallError, DataError) as error:
        _end(error, REFUSED)


def _end(error: Exception, status: int) -> None:
    sys.stderr.write(str(error))
    sys.exit(status)


if __name__ == "__main__":
    main()
