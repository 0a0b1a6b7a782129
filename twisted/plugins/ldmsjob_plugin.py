"""Makes ``twistd ldmsjob`` known to Twisted."""

from twisted.application.service import ServiceMaker

ldmsjob = ServiceMaker("ldmsjob", "ldmsjob.tap", "The job manager of LDMS.", "ldmsjob")
