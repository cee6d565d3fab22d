"""All studies, in an order in which each comes after the studies that it builds on."""

from analysis.studies import alignment, force, learning, lengths, quadratic, shift, spectra, steps
from analysis.support.study import Study

_MODULES = (learning, spectra, quadratic, force, alignment, steps)

STUDIES: dict[str, Study] = {
    study.name: study for study in (*(module.STUDY for module in _MODULES), *shift.STUDIES, lengths.STUDY)
}
