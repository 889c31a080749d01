"""What requests and answers about one item of the catalog look like."""

from typing import Any

from pydantic import ConfigDict, Field, model_validator

from service.schemas import Answer, ItemFields, Request, Sid


class PatchedFields(ItemFields):
    """Fields that are replaced; those that are null are removed."""

    @model_validator(mode="before")
    @classmethod
    def _no_item_id(cls, value: Any) -> Any:
        if isinstance(value, dict) and "item_id" in value:
            raise ValueError("an item keeps its item_id; delete the item and register another one")
        return value

    def changes(self) -> dict[str, object]:
        """What was given."""
        return self.model_dump(exclude_unset=True)


class PatchRequest(Request):
    """Changes one item; what is left out stays as it is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"fields": {"title": "High Noon (1952, restored)", "price": 9.5, "brand": None}},
                {"hidden": True},
            ]
        }
    )

    fields: PatchedFields = Field(PatchedFields(), description="fields to replace; null removes one")
    hidden: bool | None = Field(None, description="true: the item is recommended no more; false: it is again")
    retokenize: bool = Field(
        False,
        description="whether the item gets the semantic ID that is nearest to its text; otherwise it keeps its own",
    )


class ItemAnswer(Answer):
    """One item of the catalog as it is now."""

    domain: str
    item_id: str
    sid: Sid
    moved: bool = Field(description="whether the item's own leaf was taken, so that it got the nearest free one")
    hidden: bool = Field(description="whether it must not be recommended")
    fields: dict[str, object] = Field(description="its title and all other fields")
    tokenizer_version: str
    catalog_version: int


class DeletedAnswer(Answer):
    """An item that is gone."""

    domain: str
    item_id: str
    catalog_version: int = Field(description="replicas that are at this version or a later one do not have the item")
