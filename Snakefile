"""dataset → pretrain → [sample → score → align] × rounds → evaluate → report, with simulate where there is no MD yet."""

import sys

sys.path.insert(0, workflow.basedir)  # the package beside this file, whichever one is installed

from ancdiff.provenance import code_stamp
from ancdiff.workflow import open_run

# One file is a whole run: what it leaves out has the package's default, not that of another file.
if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


RUN = open_run(config)


pathvars:
    results=RUN.root,


include: "workflow/rules/simulate.smk"
include: "workflow/rules/dataset.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/sample.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/align.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
