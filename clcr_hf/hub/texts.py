"""Sentences of the model cards: what a model is meant for, what not, and its limits, by what its labels are about."""

from collections.abc import Sequence

# What labels may be about: `Benchmark.subject`, "emotion" of people who do not act, "drawn faces", and
# "labels" where nothing is known of them.
PEOPLE = ("sentiment", "emotion", "acted emotion")

_INTENDED = {
    "sentiment": "Research on how text, face and voice together express an opinion: measuring on the benchmark, "
    "comparing ways to fuse modalities, looking at what decided. Sorting recordings of people who agreed to it, with "
    "a person who looks at the result.",
    "emotion": "Research on how text, face and voice together express emotions: measuring on the benchmark, comparing "
    "ways to fuse modalities, looking at what decided.",
    "acted emotion": "Research on how face and voice express an acted emotion: measuring on the benchmark, comparing "
    "ways to fuse modalities, looking at what decided.",
    "events": "Research on events that are both seen and heard: measuring on the benchmark, comparing ways to fuse "
    "modalities, looking at what decided.",
    "actions": "Research on recognising actions from several modalities: measuring on the benchmark, comparing ways "
    "to fuse modalities, looking at what decided.",
    "drawn faces": "Trying the software: training, predicting, publishing, and seeing whether a model finds what is "
    "known to be in the clips.",
    "labels": "Clips like those it was trained on, with a person who looks at the result; comparing ways to fuse "
    "modalities, looking at what decided.",
}
_NOT_FOR_PEOPLE = (
    "Deciding anything about a person: hiring, school, insurance, credit, policing, border control, health. Watching "
    "people who do not know of it or did not agree. Finding out what somebody really feels, thinks or intends, or "
    "whether they lie: no recording tells that. Some of these uses are against the law in places (in the European "
    "Union, reading emotions at work and in schools)."
)
_NOT_FOR_ANYTHING_REAL = "Video of people, or any real video: it has seen none."
_NOT_FOR_OTHERS = (
    "Watching people who do not know of it or did not agree, and anything where a wrong label does harm: it was not "
    "tested for that. It does not tell who is in a clip."
)
_FEELINGS = (
    "A score is a model's reading of a recording, not a measurement of what a person feels. People show feelings in "
    "different ways, and the same face or voice means different things in different places and moments.",
    "Culture and language: what it learned comes from those who are in its data and those who rated them. It will "
    "read others worse: other languages and accents, ages, skin tones, head covers, people who are deaf or whose "
    "face or voice moves otherwise, through illness or disability. How much worse was not measured.",
)
_RATERS = (
    "Its labels are what some raters thought of a clip, averaged; they may disagree with the speaker and with each "
    "other, and irony is often lost on them."
)
_LIMITS = {
    "sentiment": (*_FEELINGS, _RATERS),
    "emotion": (*_FEELINGS, _RATERS),
    "acted emotion": (
        *_FEELINGS,
        "Acting: actors show an emotion on request, more strongly and more alike than people do in life. Expect much "
        "worse on spontaneous emotion.",
    ),
    "events": (
        "It knows the events of its list only, and must name one of them even for a clip of something else.",
        "Clips from YouTube show what people upload and where they live; which places, languages and surroundings "
        "are rare in them was not measured.",
    ),
    "actions": (
        "It knows the actions of its list only, and must name one of them even for a clip of something else.",
        "Clips from YouTube show what people upload; who is rare in them (countries, ages, disabilities) was not "
        "measured. A model may also learn the place or the instrument in view in place of the action.",
    ),
    "drawn faces": (
        "It knows one drawn face, one kind of voice and a few dozen sentences. What it says of a real face or voice "
        "means nothing.",
    ),
    "labels": (
        "Who is in the data, and who is missing, was not recorded. If its labels are about people's feelings: a "
        "score is a model's reading of a recording, not a measurement of what a person feels; people show feelings "
        "in different ways, and the model reads those unlike its data worse.",
    ),
}
_TRANSCRIPTS = (
    "Transcripts: it was trained on the text that came with the data. Text from a speech recogniser has other errors, "
    "more of them for accents, noise and children, and a wrong word can turn a score round."
)
_MISSING = (
    "A clip may lack a modality; the answer then rests on the others and is less certain, which the score does not "
    "show."
)


def intended_use(subject: str) -> str:
    """What a model is meant for; `subject` is one of the keys above."""
    return _INTENDED[subject]


def out_of_scope(subject: str) -> str:
    """What it is not meant for."""
    if subject == "drawn faces":
        return _NOT_FOR_ANYTHING_REAL
    return _NOT_FOR_PEOPLE if subject in (*PEOPLE, "labels") else _NOT_FOR_OTHERS


def limits(subject: str, modalities: Sequence[str], trained: str) -> list[str]:
    """What to beware of, one sentence or two each; `trained` says on what, as in "Trained on CREMA-D"."""
    found = [f"{trained}; expect worse on anything unlike it.", *_LIMITS[subject]]
    found += [_TRANSCRIPTS] if "text" in modalities else []
    return found + ([_MISSING] if len(modalities) > 1 else [])


__all__ = ["PEOPLE", "intended_use", "limits", "out_of_scope"]
