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


for stage in "simulate dataset pretrain sample score weigh align generate evaluate report".split():

    include: f"workflow/rules/{stage}.smk"
