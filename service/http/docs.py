"""The page /docs without internet: Swagger UI from files of the fastapi-offline package, served by this service."""

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse
from starlette.exceptions import HTTPException

ASSETS = Path(str(files("fastapi_offline") / "static"))
NAMES = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")
router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """The API's description, with a form to try each route."""
    root = request.scope.get("root_path", "").rstrip("/")
    script, style, icon = (f"{root}/docs/{name}" for name in NAMES)
    return get_swagger_ui_html(
        openapi_url=f"{root}{request.app.openapi_url}",
        title=request.app.title,
        swagger_js_url=script,
        swagger_css_url=style,
        swagger_favicon_url=icon,
    )


@router.get("/docs/{name}")
async def docs_asset(name: str) -> FileResponse:
    """A file that the page needs."""
    if name not in NAMES:
        raise HTTPException(404, "Not Found")
    return FileResponse(ASSETS / name)
