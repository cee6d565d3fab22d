"""All studies, in the order in which they build on each other."""

from analysis import alignment, learning, shift, spectra
from analysis.study import Study

STUDIES: dict[str, Study] = {
    study.name: study for study in (learning.STUDY, spectra.STUDY, alignment.STUDY, *shift.STUDIES)
}
