"""What linear models of the words reach on the example's test part: how much of the label shows without comparing."""

from collections.abc import Callable

from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from autolr.data import NliData
from autolr.data.example import example_data


def words(text: str) -> list[str]:
    return text.lower().replace(",", "").strip(".").split()


def overlap(premise: str, hypothesis: str) -> str:
    one, other = set(words(premise)), set(words(hypothesis))
    marked = {"only-premise": one - other, "only-hypothesis": other - one, "both": one & other}
    return " ".join(f"{mark}:{word}" for mark, found in marked.items() for word in [*found, f"count-{len(found)}"])


FEATURES: dict[str, Callable[[str, str], str]] = {
    "hypothesis's words": lambda premise, hypothesis: " ".join(words(hypothesis)),
    "premise's words": lambda premise, hypothesis: " ".join(words(premise)),
    "words of both": lambda premise, hypothesis: " ".join(
        [f"p:{word}" for word in words(premise)] + [f"h:{word}" for word in words(hypothesis)]
    ),
    "which words both have": overlap,
}


def main() -> None:
    train, test = example_data("train"), example_data("test")
    print(f"largest class {max(test.labels.count(label) for label in range(3)) / len(test):.3f}")
    for name, feature in FEATURES.items():

        def texts(data: NliData, feature: Callable[[str, str], str] = feature) -> list[str]:
            return [feature(*pair) for pair in zip(data.premises, data.hypotheses, strict=True)]

        vectors = CountVectorizer(binary=True, token_pattern=r"\S+")  # noqa: S106 - words, not secrets
        model = LogisticRegression(C=0.3, max_iter=300).fit(vectors.fit_transform(texts(train)), train.labels)
        share = float(model.score(vectors.transform(texts(test)), test.labels))
        print(f"{name} {share:.3f} ± {(share * (1 - share) / len(test)) ** 0.5:.3f}")


if __name__ == "__main__":
    main()
