"""The schema of an Iceberg table for given columns. Only for worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.transforms import Transform, VoidTransform, parse_transform
from pyiceberg.types import (
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    IcebergType,
    LongType,
    NestedField,
    StringType,
    TimestamptzType,
    UUIDType,
)

from stream.mapping.types import decimal_size
from stream.target.columns import ColumnRecord
from stream.target.lake.partitions import Partition

__all__ = ["differences", "iceberg_type", "new_schema", "new_spec"]

_TYPES: dict[str, IcebergType] = {
    "string": StringType(),
    "boolean": BooleanType(),
    "integer": LongType(),
    "double": DoubleType(),
    "timestamp": TimestamptzType(),
    "date": DateType(),
    "json": StringType(),
    "uuid": UUIDType(),
}
_FIRST_PARTITION_ID = 1000


def iceberg_type(data_type: str) -> IcebergType:
    """Return the Iceberg type of a column."""
    size = decimal_size(data_type)
    return DecimalType(*size) if size is not None else _TYPES[data_type]


def new_schema(columns: Sequence[ColumnRecord]) -> Schema:
    """Return the schema of a new table. Only key columns are required."""
    fields = [
        NestedField(number, column.name, iceberg_type(column.type), required=column.is_key)
        for number, column in enumerate(columns, 1)
    ]
    keys = [field.field_id for field in fields if field.required]
    return Schema(*fields, identifier_field_ids=keys)


def new_spec(partitions: Sequence[Partition], schema: Schema) -> PartitionSpec:
    """Return the partition spec of a new table."""
    return PartitionSpec(
        *(
            PartitionField(
                source_id=schema.find_field(partition.column).field_id,
                field_id=_FIRST_PARTITION_ID + number,
                transform=_transform(partition),
                name=partition.name,
            )
            for number, partition in enumerate(partitions)
        )
    )


def _transform(partition: Partition) -> Transform[Any, Any]:
    number = f"[{partition.number}]" if partition.number else ""
    return parse_transform(f"{partition.transform}{number}")


def differences(
    table: Table, columns: Sequence[ColumnRecord], partitions: Sequence[Partition] | None
) -> list[str]:
    """Return all reasons why rows with *columns* don't fit *table*, as readable sentences.

    A missing column counts only if it is a key column, since other columns can be added.

    :param partitions: required partitions; ``None`` to accept any.
    """
    schema = table.schema()
    found = {field.name: field for field in schema.fields}
    texts = []
    for column in columns:
        there, wanted = found.get(column.name), iceberg_type(column.type)
        if there is None:
            if column.is_key:
                texts.append(f'column "{column.name}" of the primary key is missing')
        elif there.field_type != wanted:
            texts.append(
                f'column "{column.name}" is {there.field_type}, but the mapping has {wanted}'
            )
        elif there.required and column.is_nullable:
            texts.append(f'column "{column.name}" is required, but nullable in the mapping')
    mapped = {column.name for column in columns}
    texts += [
        f'column "{field.name}" is required, but not in the mapping'
        for field in schema.fields
        if field.required and field.name not in mapped
    ]
    keys = {column.name for column in columns if column.is_key}
    there_keys = {str(schema.find_column_name(each)) for each in schema.identifier_field_ids}
    if keys and keys != there_keys:
        texts.append(
            f"the identifier fields are ({', '.join(sorted(there_keys))}), not "
            f"({', '.join(sorted(keys))})"
        )
    if partitions is not None:
        texts += _partition_differences(table, partitions)
    return texts


def _partition_differences(table: Table, partitions: Sequence[Partition]) -> list[str]:
    there = [
        _shown(str(field.transform), table.schema().find_column_name(field.source_id) or "?")
        for field in table.spec().fields
        if not isinstance(field.transform, VoidTransform)
    ]
    wanted = [str(partition) for partition in partitions]
    if there == wanted:
        return []
    return [f"it is partitioned by ({', '.join(there)}), not ({', '.join(wanted)})"]


def _shown(transform: str, column: str) -> str:
    if transform == "identity":
        return column
    name, _, number = transform.partition("[")
    return f"{name}({number.rstrip(']')}, {column})" if number else f"{name}({column})"
