import sys

sys.path.insert(0, workflow.basedir)  # the package beside this file, whichever one is installed
from ancdiff.workflow import open_run

if not workflow.overwrite_configfiles:  # one file is a whole run: what it leaves out has the package's default

    configfile: "config.yaml"


RUN = open_run(config, workflow.overwrite_configfiles)


pathvars:
    results=RUN.root,


rule all:
    input:
        "<results>/report.html",


include: "workflow/rules/simulate.smk"
include: "workflow/rules/dataset.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/sample.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/align.smk"
include: "workflow/rules/generate.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
