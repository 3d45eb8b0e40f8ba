"""What a model card says of the six benchmarks of the paper: tasks, people, terms, citations, the paper's figures.

Only what is stated by the data sets' authors or the paper; the figures are the paper's (arXiv 2602.19605), never ours.
Where to get the data and what to beware of is in `docs/benchmarks/`.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Benchmark:
    """
    One benchmark.

    Args:
        key: name of its recipe and its page.
        title: what people call it.
        output: what a model of it gives, as in "gives a sentiment score".
        content: one or two sentences on what the data are.
        terms: what is known of their licence.
        people: who is in them, as far as their authors say.
        problem_type: what the paper's task is, as in a model's configuration.
        subject: `"sentiment"`, `"acted emotion"`, `"events"` or `"actions"`: what the labels are about.
        figures: name of each figure of the paper's and its values by method, as printed; CLCR is the last.
        note: what to know before comparing.
        citations: BibTeX.
        counts: examples in training and test of the usual split.
        language: of the speech, where the model reads any.
    """

    key: str
    title: str
    output: str
    content: str
    terms: str
    people: str
    problem_type: str
    subject: str
    figures: dict[str, dict[str, str]]
    note: str
    citations: tuple[str, ...]
    counts: tuple[int, int]
    language: str | None = None


PAPER_CITATION = """@inproceedings{meng2026clcr,
  title     = {CLCR: Cross-Level Semantic Collaborative Representation for Multimodal Learning},
  author    = {Meng, Chunlei and Huang, Guanhong and Fu, Rong and Jian, Runmin and Gan, Zhongxue and Ouyang, Chun},
  booktitle = {CVPR},
  year      = {2026},
  note      = {arXiv:2602.19605}
}"""

_MOSI = """@article{zadeh2016mosi,
  title   = {MOSI: Multimodal Corpus of Sentiment Intensity and Subjectivity Analysis in Online Opinion Videos},
  author  = {Zadeh, Amir and Zellers, Rowan and Pincus, Eli and Morency, Louis-Philippe},
  journal = {arXiv:1606.06259},
  year    = {2016}
}"""
_MOSEI = """@inproceedings{zadeh2018mosei,
  title     = {Multimodal Language Analysis in the Wild: CMU-MOSEI Dataset and Interpretable Dynamic Fusion Graph},
  author    = {Zadeh, AmirAli Bagher and Liang, Paul Pu and Poria, Soujanya and Cambria, Erik and
               Morency, Louis-Philippe},
  booktitle = {ACL},
  year      = {2018}
}"""
_CREMAD = """@article{cao2014cremad,
  title   = {CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset},
  author  = {Cao, Houwei and Cooper, David G. and Keutmann, Michael K. and Gur, Ruben C. and Nenkova, Ani and
             Verma, Ragini},
  journal = {IEEE Transactions on Affective Computing},
  volume  = {5},
  number  = {4},
  year    = {2014},
  doi     = {10.1109/TAFFC.2014.2336244}
}"""
_LOOK = """@inproceedings{arandjelovic2017look,
  title     = {Look, Listen and Learn},
  author    = {Arandjelovi{\\'c}, Relja and Zisserman, Andrew},
  booktitle = {ICCV},
  year      = {2017},
  note      = {arXiv:1705.08168}
}"""
_KINETICS = """@article{kay2017kinetics,
  title   = {The Kinetics Human Action Video Dataset},
  author  = {Kay, Will and Carreira, Joao and Simonyan, Karen and Zhang, Brian and Hillier, Chloe and others},
  journal = {arXiv:1705.06950},
  year    = {2017}
}"""
_AVE = """@inproceedings{tian2018ave,
  title     = {Audio-Visual Event Localization in Unconstrained Videos},
  author    = {Tian, Yapeng and Shi, Jing and Li, Bochen and Duan, Zhiyao and Xu, Chenliang},
  booktitle = {ECCV},
  year      = {2018},
  note      = {arXiv:1803.08842}
}"""
_UCF101 = """@techreport{soomro2012ucf101,
  title       = {UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild},
  author      = {Soomro, Khurram and Zamir, Amir Roshan and Shah, Mubarak},
  institution = {University of Central Florida},
  number      = {CRCV-TR-12-01},
  year        = {2012},
  note        = {arXiv:1212.0402}
}"""

_RESEARCH_VIDEOS = (
    "for academic research; see its authors' terms. The videos are their makers', found on YouTube. Ask the authors "
    "before any other use of data or weights"
)
_ACC2 = "The paper does not say which Acc-2 it means, nor which features it reads; rows compare only within one source."

BENCHMARKS: dict[str, Benchmark] = {
    each.key: each
    for each in (
        Benchmark(
            key="mosi",
            title="CMU-MOSI",
            output="a sentiment score from -3 (very negative) to 3 (very positive)",
            content="2,199 opinion segments cut from 93 English YouTube reviews, each rated by several people.",
            terms=_RESEARCH_VIDEOS,
            people="89 speakers, 41 women and 48 men, most of them between about 20 and 30 years old, all in English "
            "(as its paper states)",
            problem_type="regression",
            subject="sentiment",
            figures={
                "MAE": {"DLF": "0.731", "EMOE": "0.710", "CLCR": "0.678"},
                "Acc-2": {"DLF": "85.06", "EMOE": "85.4", "CLCR": "88.05"},
            },
            note=_ACC2,
            citations=(_MOSI,),
            counts=(1284, 686),
            language="en",
        ),
        Benchmark(
            key="mosei",
            title="CMU-MOSEI",
            output="a sentiment score from -3 (very negative) to 3 (very positive)",
            content="About 23,000 sentences of some 3,200 English YouTube videos in which one person speaks to the "
            "camera.",
            terms=_RESEARCH_VIDEOS,
            people="about 1,000 speakers, 57% men and 43% women (as its paper states)",
            problem_type="regression",
            subject="sentiment",
            figures={
                "MAE": {"DLF": "0.536", "EMOE": "0.536", "CLCR": "0.511"},
                "Acc-2": {"DLF": "85.42", "EMOE": "85.3", "CLCR": "87.96"},
            },
            note=_ACC2,
            citations=(_MOSEI,),
            counts=(16326, 4659),
            language="en",
        ),
        Benchmark(
            key="cremad",
            title="CREMA-D",
            output="one of six emotions: anger, disgust, fear, happiness, neutral, sadness",
            content="7,442 clips in which actors say one of twelve sentences in one of six emotions. The label is the "
            "emotion that was asked of the actor, not what listeners heard or saw.",
            terms="the database is under the Open Database License (ODbL) v1.0, its contents under the Database "
            "Contents License, as its authors' repository states",
            people="91 actors, 48 men and 43 women, between 20 and 74 years old, of several ethnic backgrounds, "
            "speaking English (as its authors state)",
            problem_type="single_label_classification",
            subject="acted emotion",
            figures={"accuracy": {"D&R": "73.52", "ARL": "76.46", "CLCR": "77.92"}},
            note="The usual lists have the same actors in training and test. Higher figures have been published: "
            "MMPareto is given 79.97 in BalanceBenchmark, where plain joint training has 65.50. Rows compare only "
            "within one source.",
            citations=(_CREMAD,),
            counts=(6698, 744),
            language="en",
        ),
        Benchmark(
            key="kinetics_sounds",
            title="Kinetics-Sounds",
            output="one of 31 actions",
            content="The ten-second YouTube clips of Kinetics-400 whose action is both seen and heard: 14,799 for "
            "training and 2,597 for test in the lists in use. Sets of 32, 33 and 34 classes go by the same name.",
            terms="the data set is lists of YouTube ids; Google publishes Kinetics' annotations under CC BY 4.0. The "
            "videos belong to those who uploaded them; see their terms and YouTube's",
            people="those whom YouTube showed when Kinetics was gathered; how they are spread over ages, sexes and "
            "countries is not stated for this selection",
            problem_type="single_label_classification",
            subject="actions",
            figures={"accuracy": {"D&R": "69.10", "ARL": "74.09", "CLCR": "75.41"}},
            note="The paper does not say how many classes its set has. In BalanceBenchmark joint training has 65.63, "
            "MMPareto 74.55. Rows compare only within one source.",
            citations=(_LOOK, _KINETICS),
            counts=(14799, 2597),
        ),
        Benchmark(
            key="ave",
            title="AVE",
            output="one of 28 events for a clip (or, trained so, one of 29 classes for each of its ten seconds)",
            content="4,143 ten-second clips, each with an event that is both seen and heard and the seconds in which "
            "it lasts.",
            terms="see its authors' terms: their repository states no licence that we know of. The clips come from "
            "YouTube by way of AudioSet and belong to those who uploaded them; take them as for research only",
            people="not stated by its authors; the events are of people, animals, vehicles and instruments",
            problem_type="single_label_classification",
            subject="events",
            figures={"accuracy": {"D&R": "69.62", "ARL": "72.61", "CLCR": "73.82"}},
            note="In all likelihood this is accuracy over clips (28 classes); work on event localisation reports "
            "accuracy over seconds (29 classes), which cannot be compared with it.",
            citations=(_AVE,),
            counts=(3339, 402),
        ),
        Benchmark(
            key="ucf101",
            title="UCF101",
            output="one of 101 actions",
            content="13,320 clips of about seven seconds from YouTube, in three splits. The model reads frames and "
            "their optical flow, not the audio.",
            terms="see its authors' terms: no licence is stated that we know of. The clips come from YouTube and "
            "belong to those who uploaded them; take them as for research only",
            people="not stated by its authors; the classes are mostly sports, music and daily acts",
            problem_type="single_label_classification",
            subject="actions",
            figures={"accuracy": {"D&R": "82.11", "ARL": "83.06", "CLCR": "83.64"}},
            note="Which split, or the mean of three, is not stated. Higher figures have been published: in "
            "BalanceBenchmark MMPareto 85.30, MLA 85.38, AMCo 86.91 (joint training 81.80). Rows compare only within "
            "one source.",
            citations=(_UCF101,),
            counts=(9537, 3783),
        ),
    )
}
# Names of `--dataset` that stand for one benchmark.
_BY_SOURCE = {name: name for name in ("cremad", "kinetics_sounds", "ave", "ucf101")} | {"ave_h5": "ave"}


def benchmark_of(run: dict[str, Any]) -> Benchmark | None:
    """
    The benchmark that a run's record is of, or None where that is not certain: files of CMU-MOSI and CMU-MOSEI are
    told apart by what the user said, else by the exact numbers of the usual split's examples.
    """
    source = run.get("dataset", "")
    if source in _BY_SOURCE:
        return BENCHMARKS[_BY_SOURCE[source]]
    if source not in ("mmsa", "csd"):
        return None
    options = (run.get("data_arguments") or {}).get("dataset_options") or ""
    examples = run.get("num_examples") or {}
    for key in ("mosi", "mosei"):
        if f"dataset={key}" in options.split(","):
            return BENCHMARKS[key]
        if (examples.get("train"), examples.get("test")) == BENCHMARKS[key].counts:
            return BENCHMARKS[key]
    return None


__all__ = ["BENCHMARKS", "PAPER_CITATION", "Benchmark", "benchmark_of"]
